// How long an edit takes to another client and, where the server echoes it, back to its own: stock clients, one process.
const USAGE = `
bench.mjs --peer engram --url ws://HOST:PORT/v1/documents | --peer y-websocket|y-websocket-leveldb|hocuspocus|hocuspocus-files
  --clients N     writing clients per document (1); one client more only reads
  --documents D   (1)
  --edits M       edits per client (200)
  --rate R        edits a second per client (10)
  --hearing H     writing clients per document that read what the server sends; the others only write once they are synced
                  (all). One process that applies each edit for a hundred clients measures itself.
  --warm-up W     first edits of each client that are not counted (10)
  --document ID   prefix of the documents' names ("bench" and the seed)
  --token T       sent as ?token=T
  --timeout S     seconds for everything (120)
  --seed S        repeats the texts and the clients' phases

The peers are started in child processes and stopped again (see peers.mjs for what they store). An edit inserts a short
text at a random place of a shared Y.Text and its number into a Y.Map; latency is from before the edit to the reader's
event for that number, all in this process. Prints
  {"peer", "clients", "documents", "edits", "rate", "seconds", "peerMs": {"p50", "p90", "p99", "max", "count"},
   "echoMs": the same or null, "editsPerSecond", "busy"}
echoMs is from the edit to its echo at the clients that hear: for engram that is durable; y-websocket echoes what is in memory; hocuspocus
answers with "saved" messages, which are not told apart here. busy is the share of the time in which this process was not
idle: above about 0.7 it measures itself.
`

import * as Y from 'yjs'
import WebSocket from 'ws'
import { HocuspocusProvider, HocuspocusProviderWebsocket } from '@hocuspocus/provider'

import { readFlags, print, run } from './flags.mjs'
import { Random, outsidePair } from './random.mjs'
import { connect, until, pause } from './connection.mjs'
import { Ledger } from './ledger.mjs'
import { PEERS, start } from './peers.mjs'

const flags = readFlags(USAGE, {
  peer: 'engram',
  url: undefined,
  clients: 1,
  documents: 1,
  edits: 200,
  rate: 10,
  hearing: Infinity,
  'warm-up': 10,
  document: undefined,
  token: undefined,
  timeout: 120,
  seed: 1
})
const deadline = performance.now() + flags.timeout * 1000

function connectHocuspocus ({ url, document }) {
  const doc = new Y.Doc()
  const websocketProvider = new HocuspocusProviderWebsocket({ url, WebSocketPolyfill: WebSocket })
  const provider = new HocuspocusProvider({ websocketProvider, name: document, document: doc })
  provider.attach()
  return { doc, provider }
}

function open (url, document, ledger) {
  return flags.peer.startsWith('hocuspocus')
    ? connectHocuspocus({ url, document })
    : connect({ url, document, token: flags.token, ledger })
}

// A document with its writers and its reader, and the latencies seen there.
class Room {
  constructor (url, document, random) {
    this.peer = []
    this.echo = []
    this.reader = open(url, document)
    this.writers = Array.from({ length: flags.clients }, (_, number) => new Writer(this, url, document, String(number), random.branch()))
    this.reader.doc.getMap('marks').observe((event, { local }) => {
      const now = performance.now()
      if (local) return
      for (const key of event.keysChanged) this.writers[Number(key)].seen(event.target.get(key), now)
    })
  }

  get clients () {
    return [this.reader, ...this.writers.map(({ client }) => client)]
  }
}

class Writer {
  constructor (room, url, document, key, random) {
    Object.assign(this, { room, key, random, sentAt: [], arrived: 0, isDeaf: false })
    this.ledger = new Ledger()
    this.ledger.onEcho = ({ mark }) => this.measure(room.echo, mark, performance.now())
    this.client = open(url, document, this.ledger)
    this.client.doc.on('update', (update, origin) => {
      if (origin === this) this.ledger.record(update, null, this.sentAt.length - 1)
    })
  }

  async work () {
    const { doc } = this.client
    const text = doc.getText('text')
    const gap = 1000 / flags.rate
    const started = performance.now() + this.random.next() * gap
    for (let number = 0; number < flags.edits; number++) {
      await pause(Math.max(0, started + number * gap - performance.now()))
      const place = outsidePair(text.toString(), this.random.below(text.length + 1))
      const string = this.random.string(6)
      this.sentAt.push(performance.now())
      doc.transact(() => {
        text.insert(place, string)
        doc.getMap('marks').set(this.key, number)
      }, this)
    }
  }

  // From here on it only writes: what the server sends is dropped as it comes.
  deafen () {
    this.isDeaf = true
    const { provider } = this.client
    const websocketProvider = provider.configuration?.websocketProvider
    const socket = provider.ws ?? websocketProvider.webSocket
    socket.removeAllListeners('message')
    // They leave a server of which they hear nothing.
    if (provider.ws) provider.wsLastMessageReceived = Infinity
    else websocketProvider.lastMessageReceived = Infinity
  }

  // The reader has all edits up to `number`: a server may join some of them.
  seen (number, now) {
    for (; this.arrived <= number; this.arrived++) this.measure(this.room.peer, this.arrived, now)
  }

  measure (into, number, now) {
    if (number >= flags['warm-up']) into.push(now - this.sentAt[number])
  }
}

function summary (latencies) {
  if (latencies.length === 0) return null
  const ordered = latencies.sort((a, b) => a - b)
  const at = share => Number(ordered[Math.min(ordered.length - 1, Math.floor(share * ordered.length))].toFixed(2))
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1), count: ordered.length }
}

async function measure (url) {
  const random = new Random(flags.seed)
  const prefix = flags.document ?? `bench-${flags.seed}`
  const rooms = Array.from({ length: flags.documents }, (_, number) => new Room(url, `${prefix}-${number}`, random.branch()))
  await until(() => rooms.every(({ clients }) => clients.every(({ provider }) => provider.synced)), deadline,
    () => 'not all clients are synced')
  const writers = rooms.flatMap(room => room.writers)
  for (const room of rooms) room.writers.slice(flags.hearing).forEach(writer => writer.deafen())
  const begin = performance.now()
  const idle = performance.eventLoopUtilization()
  await Promise.all(writers.map(writer => writer.work()))
  const seconds = (performance.now() - begin) / 1000
  const busy = performance.eventLoopUtilization(idle).utilization
  const missing = () => writers.filter(({ arrived }) => arrived < flags.edits).length
  await until(() => missing() === 0, deadline, () => `edits of ${missing()} clients have not reached their reader`)
  if (flags.peer === 'engram') {
    const hearing = writers.filter(({ isDeaf }) => !isDeaf)
    const silent = () => hearing.reduce((count, { ledger }) => count + ledger.edits.length - ledger.echoed, 0)
    await until(() => silent() === 0, deadline, () => `${silent()} edits are not echoed`)
  }
  return {
    seconds: Number(seconds.toFixed(2)),
    peerMs: summary(rooms.flatMap(({ peer }) => peer)),
    echoMs: summary(rooms.flatMap(({ echo }) => echo)),
    editsPerSecond: Math.round(writers.length * flags.edits / seconds),
    busy: Number(busy.toFixed(2))
  }
}

run(async () => {
  const { peer, clients, documents, edits, rate } = flags
  if (peer !== 'engram' && !PEERS.includes(peer)) throw new Error(`--peer is engram or one of ${PEERS.join(', ')}`)
  if (peer === 'engram' && flags.url === undefined) throw new Error('--peer engram needs --url')
  const server = flags.url === undefined ? await start(peer) : null
  try {
    print({ peer, clients, documents, edits, rate, ...await measure(flags.url ?? server.url) })
  } finally {
    await server?.stop()
  }
})
