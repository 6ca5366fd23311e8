// Plays a real editing trace through stock clients, or, mangled, through a client that behaves as badly as it may.
const USAGE = `
trace.mjs --trace FILE.json.gz --write-updates FILE       writes the trace's Yjs updates (layout: editing_trace.mjs)
trace.mjs --trace FILE.json.gz --url ws://HOST:PORT/v1/documents --document ID
  --limit K       only the first K transactions
  --clients N     clients in all: one for each agent of the trace, the others only read (one more than agents)
  --token T       sent as ?token=T
  --in-flight W   updates of a client that may wait for their acknowledgement (512)
  --rate R        updates a second, all clients together (0: as fast as they go)
  --no-ack        do not wait for acknowledgements
  --elsewhere     agents learn each other's edits elsewhere, not from the server, which may so get effects before causes
  --timeout S     seconds for everything (300)
  --mangle        no stock clients: a raw one per agent sends the updates twice, out of order within --window (8), several
                  in a frame, in fragments, and cuts connections inside frames; then it syncs anew. --seed S repeats it

Before anything is sent prints {"trace", "transactions", "agents", "characters", "asRecorded"}: asRecorded says whether
the text that Yjs makes is the trace's endContent (null under --limit). At the end
  {"document", "updates", "bytes", "sentSeconds", "acknowledged", "covered", "acknowledgedSeconds", "convergedSeconds",
   "updatesPerSecond", "converged": true}
or, mangled, {"document", "updates", "frames", "duplicates", "fragmented", "cut", "repairs", "convergedSeconds",
   "updatesPerSecond", "converged": true}.
Converged: every client, and one that connected afterwards, has the text that a Y.Doc makes of the updates, and its clocks.
Each second {"sent", "acknowledged"}.
`

import * as Y from 'yjs'

import { readFlags, print, run, REQUIRED } from './flags.mjs'
import { connect, synced, until, pause, turn } from './connection.mjs'
import { Ledger } from './ledger.mjs'
import { stateVector } from './projection.mjs'
import { readTrace, updatesOf, writeUpdates } from './editing_trace.mjs'
import { sendMangled } from './mangle.mjs'

const flags = readFlags(USAGE, {
  trace: REQUIRED,
  'write-updates': undefined,
  url: undefined,
  document: 'trace',
  limit: Infinity,
  clients: 0,
  token: undefined,
  'in-flight': 512,
  rate: 0,
  'no-ack': false,
  elsewhere: false,
  timeout: 300,
  mangle: false,
  window: 8,
  seed: 1
})
const deadline = performance.now() + flags.timeout * 1000
const secondsSince = start => Number(((performance.now() - start) / 1000).toFixed(3))

// A stock client that plays the transactions of one agent.
class Player {
  constructor () {
    this.ledger = new Ledger()
    this.client = connect({ ...flags, ledger: this.ledger })
    this.doc = this.client.doc
    this.doc.on('update', (update, origin) => {
      if (origin === this) this.ledger.record(update, this.insertedTo)
    })
  }

  // SUBTLE: an update whose causes are missing would be kept as pending, and once they come from the server Yjs applies
  // it under the provider's name: the provider takes it for the server's and never sends it. So causes come first.
  ready ({ needs }) {
    return needs.every((clock, agent) => Y.getState(this.doc.store, agent + 1) >= clock)
  }

  play ({ update, agent, clock }) {
    this.insertedTo = clock > Y.getState(this.doc.store, agent + 1) ? [agent + 1, clock] : null
    Y.applyUpdate(this.doc, update, this)
  }

  learn ({ update }) {
    Y.applyUpdate(this.doc, update, this.client.provider)
  }

  get waiting () {
    return flags['no-ack'] ? 0 : this.ledger.edits.length - this.ledger.acknowledged
  }
}

async function playAll (updates, players) {
  const start = performance.now()
  let sent = 0
  const keepPace = async () => {
    sent++
    if (flags.rate > 0) await pause(Math.max(0, start + sent * 1000 / flags.rate - performance.now()))
    else if (sent % 50 === 0) await turn()
  }
  const one = async agent => {
    const player = players[agent]
    for (const step of updates) {
      if (step.agent !== agent) {
        if (flags.elsewhere) player.learn(step)
        continue
      }
      const held = () => player.waiting >= flags['in-flight'] || !player.ready(step)
      while (held()) {
        if (performance.now() > deadline) throw new Error(`time is up: agent ${agent} waits after ${sent} updates in all`)
        await pause(1)
      }
      player.play(step)
      await keepPace()
    }
  }
  await Promise.all([...new Set(updates.map(({ agent }) => agent))].map(one))
  return secondsSince(start)
}

// Waits until all of `clients` and a fresh one have the oracle's text and clocks.
async function converge (clients, oracle) {
  const want = JSON.stringify(stateVector(oracle))
  const text = oracle.getText('text').toString()
  const same = ({ doc, provider }) => provider.synced && JSON.stringify(stateVector(doc)) === want &&
    doc.getText('text').toString() === text
  await until(() => clients.every(same), deadline, () =>
    `${clients.filter(client => !same(client)).length} of ${clients.length} clients differ from a merge of all updates`, 20)
  const late = connect(flags)
  await until(() => same(late), deadline, () => 'a client that connected afterwards sees another state')
  return [...clients, late]
}

async function throughStockClients (updates, agents, oracle) {
  const players = Array.from({ length: Math.max(agents, flags.clients || agents + 1) }, () => new Player())
  const sum = field => players.reduce((total, { ledger }) => total + ledger[field], 0)
  const sent = () => players.reduce((total, { ledger }) => total + ledger.edits.length, 0)
  const progress = setInterval(() => print({ sent: sent(), acknowledged: sum('acknowledged') }), 1000)
  await Promise.all(players.map(player => synced(player.client, deadline)))
  const start = performance.now()
  const sentSeconds = await playAll(updates, players)
  if (!flags['no-ack']) {
    await until(() => sum('acknowledged') === sent(), deadline, () => `${sent() - sum('acknowledged')} not acknowledged`)
  }
  const acknowledgedSeconds = flags['no-ack'] ? null : secondsSince(start)
  await converge(players.map(({ client }) => client), oracle)
  clearInterval(progress)
  const convergedSeconds = secondsSince(start)
  return {
    sentSeconds,
    acknowledged: sum('acknowledged'),
    covered: sum('covered'),
    acknowledgedSeconds,
    convergedSeconds,
    updatesPerSecond: Math.round(updates.length / (acknowledgedSeconds ?? convergedSeconds))
  }
}

async function throughMangledClients (updates, oracle) {
  const reader = connect(flags)
  await synced(reader, deadline)
  const start = performance.now()
  const figures = { sent: 0, frames: 0, duplicates: 0, fragmented: 0, cut: 0, repairs: 0 }
  const progress = setInterval(() => print({ sent: figures.sent }), 1000)
  const senders = await sendMangled({ ...flags, updates, figures, deadline })
  await converge([reader], oracle)
  senders.forEach(sender => sender.close())
  clearInterval(progress)
  const convergedSeconds = secondsSince(start)
  delete figures.sent
  return { ...figures, convergedSeconds, updatesPerSecond: Math.round(updates.length / convergedSeconds) }
}

run(async () => {
  const trace = readTrace(flags.trace)
  const made = updatesOf(trace, flags.limit)
  const { updates, text } = made
  print({
    trace: flags.trace.split('/').pop(),
    transactions: updates.length,
    agents: trace.numAgents,
    characters: text.length,
    asRecorded: made.complete ? text === trace.endContent : null
  })
  if (made.complete && text !== trace.endContent) throw new Error("Yjs makes another text than the trace's endContent")
  if (flags['write-updates'] !== undefined) writeUpdates(flags['write-updates'], made)
  if (flags.url === undefined) return
  const oracle = new Y.Doc()
  for (const { update } of updates) Y.applyUpdate(oracle, update)
  const figures = flags.mangle
    ? await throughMangledClients(updates, oracle)
    : await throughStockClients(updates, trace.numAgents, oracle)
  const bytes = updates.reduce((total, { update }) => total + update.length, 0)
  print({ document: flags.document, updates: updates.length, bytes, ...figures, converged: true })
})
