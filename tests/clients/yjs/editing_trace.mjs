// The editing traces of josephg/editing-traces as Yjs updates: one update a transaction, one Yjs client an agent.
//
// A transaction applies to the merge of its parents. In these traces an agent's previous transaction is always among the
// ancestors of its next one (checked here), so one growing document per agent is enough: before a transaction, the
// document of its agent is given the updates of just those ancestors that it lacks.
//
// File of updates (--write-updates), little endian, in an order in which causes come before effects:
//   repeated: agent u32 | length u32 | update, Yjs v1, length bytes
// The Yjs client id of an agent is agent + 1. Beside it, FILE.txt holds the final text, UTF-8.

import * as Y from 'yjs'
import { readFileSync, writeFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'

export function readTrace (path) {
  const trace = JSON.parse(gunzipSync(readFileSync(path)))
  if (trace.startContent) throw new Error(`${path}: starts with text, which no trace here does`)
  if (trace.kind !== 'concurrent') {
    trace.numAgents = 1
    trace.txns.forEach((txn, index) => Object.assign(txn, { agent: 0, parents: index === 0 ? [] : [index - 1] }))
  }
  return trace
}

// {updates: [{agent, update, clock, needs}], text, complete}: `clock` is that of the agent's client after the update,
// `needs` the clocks of all clients that the update builds on, by agent; `text` is what Yjs makes of it.
export function updatesOf (trace, limit = Infinity) {
  const txns = trace.txns.slice(0, limit)
  const agents = Array.from({ length: trace.numAgents }, (_, agent) => new Agent(agent, trace.numAgents))
  const place = astral(txns) ? placeAmongAstral : (_text, position) => position
  const updates = []
  const versions = []
  txns.forEach((txn, index) => {
    const agent = agents[txn.agent]
    const seen = versionOf(txn, versions, trace.numAgents)
    if (seen[txn.agent] !== agent.made.length) throw new Error(`transaction ${index} does not follow its agent's last`)
    for (const missing of agent.lacking(agents, seen)) Y.applyUpdate(agent.doc, updates[missing].update)
    const update = agent.edit(txn, place)
    const needs = seen.map((count, other) => count === 0 ? 0 : updates[agents[other].made[count - 1]].clock)
    agent.made.push(index)
    agent.seen[txn.agent]++
    versions.push(agent.seen.slice())
    updates.push({ agent: txn.agent, update, clock: Y.getState(agent.doc.store, agent.doc.clientID), needs })
  })
  const merged = new Y.Doc()
  for (const { update } of updates) Y.applyUpdate(merged, update)
  return { updates, text: merged.getText('text').toString(), complete: txns.length === trace.txns.length }
}

class Agent {
  constructor (number, count) {
    this.doc = new Y.Doc()
    this.doc.clientID = number + 1
    this.made = [] // indexes of its own transactions
    this.seen = new Array(count).fill(0) // by agent: how many of its transactions are in the document
  }

  // Indexes of the transactions in `wanted` that this agent's document lacks, causes first.
  lacking (agents, wanted) {
    const missing = []
    wanted.forEach((count, other) => {
      const known = this.seen[other]
      missing.push(...agents[other].made.slice(known, count))
      this.seen[other] = Math.max(known, count)
    })
    return missing.sort((a, b) => a - b)
  }

  edit (txn, place) {
    const text = this.doc.getText('text')
    let update = new Uint8Array([0, 0]) // nothing inserted, nothing deleted
    this.doc.once('update', made => { update = made })
    this.doc.transact(() => {
      for (const [position, deleted, inserted] of txn.patches) {
        const from = place(text, position)
        if (deleted > 0) text.delete(from, place(text, position + deleted) - from)
        if (inserted.length > 0) text.insert(from, inserted)
      }
    })
    return update
  }
}

// By agent: how many of its transactions are among the ancestors of `txn`.
function versionOf (txn, versions, agents) {
  const seen = new Array(agents).fill(0)
  for (const parent of txn.parents) {
    versions[parent].forEach((count, agent) => { seen[agent] = Math.max(seen[agent], count) })
  }
  return seen
}

const astral = txns => txns.some(({ patches }) => patches.some(([,, inserted]) => /[\u{10000}-\u{10ffff}]/u.test(inserted)))

// Where code point `position` of a text stands in UTF-16 units.
function placeAmongAstral (text, position) {
  const string = text.toString()
  let place = 0
  for (let left = position; left > 0; left--) place += string.codePointAt(place) > 0xffff ? 2 : 1
  return place
}

export function writeUpdates (file, { updates, text }) {
  const parts = []
  for (const { agent, update } of updates) {
    const head = Buffer.alloc(8)
    head.writeUInt32LE(agent, 0)
    head.writeUInt32LE(update.length, 4)
    parts.push(head, update)
  }
  writeFileSync(file, Buffer.concat(parts))
  writeFileSync(file + '.txt', text)
}
