// Random concurrent histories made by real Yjs, with what they must come to, for tests that run without node.
//
// Layout of the file, little endian:
//   magic "ENGRAMH1" | histories u32
//   per history:
//     flags u8: 1 = every update comes after all of its causes; 0 = only after those of its own client
//     updates u32
//     per update: length u32 | update, Yjs v1, length bytes
//     length u32 | JSON, UTF-8, length bytes:
//       {"roots": {name: {"type": "text" | "map" | "array" | "xml", "value": ..}}, "stateVector": [[client, clock], ..]}
// The updates stand in an order in which a server could receive them. The JSON is what a Y.Doc holds after all of them:
// text as a string (embeds are not in it), maps and arrays as toJSON() with sorted keys, XML as toString() (attributes
// sorted, formats as tags), clients in ascending order; with --delta a text has "delta" too. Numbers are JavaScript's:
// 1 and 1.0 are the same. Roots that no operation touched are not in it.
//
// No edit cuts a surrogate pair: where one does, replicas of Yjs 13 may differ for good (one has U+FFFD twice, the other
// the character). With --delta, formats are those of a replica that received this order: Yjs's replicas agree on them
// only once they have exchanged the deletions by which each tidies formats up.
const USAGE = `
histories.mjs --out FILE
  --count N          histories (1000)
  --seed S           repeats the file, byte for byte
  --acausal P        share of histories in which updates may come before causes made by other clients (0)
  --delta            roots of type text carry their delta
  --verify P         share of histories whose documents are all brought together and compared, formats aside (0.05)

Prints {"seed"} and {"file", "histories", "updates", "bytes", "seconds", "verified"}.
`

import * as Y from 'yjs'
import { closeSync, openSync, writeSync } from 'node:fs'

import { readFlags, print, run, REQUIRED } from './flags.mjs'
import { Random } from './random.mjs'
import { roots, sorted, stateVector } from './projection.mjs'
import { change, ROOTS } from './operations.mjs'

const flags = readFlags(USAGE, {
  out: REQUIRED,
  count: 1000,
  seed: 1,
  acausal: 0,
  delta: false,
  verify: 0.05
})

// A document of a history: what it knows are indexes into the history's updates.
class Replica {
  constructor (history, number, random) {
    this.history = history
    this.random = random
    this.doc = new Y.Doc({ guid: String(number), gc: !random.chance(0.15) })
    this.doc.clientID = freshClientID(history, random)
    this.known = new Set()
    this.made = []
    this.undo = random.chance(0.2)
      ? new Y.UndoManager([this.doc.getText('text'), this.doc.getMap('map'), this.doc.getArray('array')],
        { captureTimeout: 0, trackedOrigins: new Set(['edit']) })
      : null
    // SUBTLE: a remote update may make Yjs delete formats that have become redundant, which is an update of this client.
    this.doc.on('update', (update, origin) => { if (origin !== 'remote') this.emit(update) })
  }

  emit (update) {
    const index = this.history.updates.length
    this.history.updates.push({ update, causes: new Set(this.known), maker: this })
    this.known.add(index)
    this.made.push(index)
  }

  edit () {
    const { random } = this
    if (this.undo !== null && random.chance(0.25)) return random.chance(0.7) ? this.undo.undo() : this.undo.redo()
    this.doc.transact(() => {
      for (let left = random.chance(0.7) ? 1 : 1 + random.below(4); left > 0; left--) {
        change(this.doc, random, this.history.touched)
      }
    }, 'edit')
  }

  // Some of what `other` knows and this one lacks; the first of it, so that causes come along.
  receive (other) {
    const missing = [...other.known].filter(index => !this.known.has(index)).sort((a, b) => a - b)
    const count = this.random.chance(0.6) ? missing.length : this.random.below(missing.length + 1)
    for (const index of missing.slice(0, count)) {
      this.known.add(index)
      Y.applyUpdate(this.doc, this.history.updates[index].update, 'remote')
    }
  }
}

function freshClientID (history, random) {
  let clientID
  do clientID = random.clientID()
  while (history.clientIDs.has(clientID))
  history.clientIDs.add(clientID)
  return clientID
}

function makeHistory (random) {
  const history = { updates: [], clientIDs: new Set(), touched: new Set() }
  const replicas = Array.from({ length: 2 + random.below(3) }, (_, number) => new Replica(history, number, random))
  const size = 5 + random.below(36)
  for (let tries = 0; history.updates.length < size && tries < 4 * size; tries++) {
    const replica = random.pick(replicas)
    if (random.chance(0.65)) replica.edit()
    else replica.receive(random.pick(replicas))
  }
  return { ...history, replicas }
}

// The updates in a random order: those of a client as it made them, and, if `causal`, after all of their causes.
function arrivals ({ updates, replicas }, causal, random) {
  const queues = replicas.map(({ made }) => made.slice())
  const arrived = new Set()
  const order = []
  while (order.length < updates.length) {
    const queue = random.pick(queues)
    let burst = 1 + random.below(4)
    while (burst-- > 0 && queue.length > 0) {
      const index = queue[0]
      if (causal && ![...updates[index].causes].every(cause => arrived.has(cause))) break
      queue.shift()
      arrived.add(index)
      order.push(updates[index].update)
    }
  }
  return order
}

function expected (order, touched) {
  const doc = new Y.Doc({ guid: 'expected' })
  for (const update of order) Y.applyUpdate(doc, update)
  return { json: project(doc, touched, flags.delta), plain: project(doc, touched) }
}

function project (doc, touched, delta = false) {
  const types = Object.fromEntries(Object.entries(ROOTS).filter(([name]) => touched.has(name)))
  const values = roots(doc, types)
  for (const name of Object.keys(values)) {
    values[name] = { type: types[name], value: values[name] }
    if (delta && types[name] === 'text') values[name].delta = sorted(doc.getText(name).toDelta())
  }
  return JSON.stringify({ roots: values, stateVector: stateVector(doc) })
}

// XML without the tags of formats: which of them a replica shows can depend on the order in which its updates came.
const withoutFormats = json => json.replace(/<\/?[bi]>/g, '')

// All replicas, brought together, must hold what the file says, formats aside.
function verify ({ replicas, updates, touched }, plain, number) {
  let before
  do {
    before = updates.length
    for (const replica of replicas) {
      for (let index = 0; index < updates.length; index++) {
        if (replica.known.has(index)) continue
        replica.known.add(index)
        Y.applyUpdate(replica.doc, updates[index].update, 'remote')
      }
    }
  } while (updates.length > before)
  for (const { doc } of replicas) {
    if (withoutFormats(project(doc, touched)) !== withoutFormats(plain)) throw new Error(`history ${number}: replicas disagree`)
  }
}

const word = number => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(number)
  return bytes
}

run(async () => {
  const start = performance.now()
  const random = new Random(flags.seed)
  const file = openSync(flags.out, 'w')
  let bytes = 0
  const write = parts => { bytes += writeSync(file, Buffer.concat(parts)) }
  write([Buffer.from('ENGRAMH1'), word(flags.count)])
  let updates = 0
  let verified = 0
  for (let number = 0; number < flags.count; number++) {
    const own = random.branch()
    const history = makeHistory(own)
    const causal = !own.chance(flags.acausal)
    const order = arrivals(history, causal, own)
    const { json, plain } = expected(order, history.touched)
    if (own.chance(flags.verify)) {
      verify(history, plain, number)
      verified++
    }
    const result = Buffer.from(json)
    write([
      Buffer.from([causal ? 1 : 0]), word(order.length),
      ...order.flatMap(update => [word(update.length), update]),
      word(result.length), result
    ])
    updates += order.length
    for (const { doc } of history.replicas) doc.destroy()
  }
  closeSync(file)
  const seconds = Number(((performance.now() - start) / 1000).toFixed(1))
  print({ file: flags.out, histories: flags.count, updates, bytes, seconds, verified })
})
