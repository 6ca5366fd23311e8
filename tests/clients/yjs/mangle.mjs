// A raw client of the y-websocket protocol that sends right updates in wrong ways: twice, out of order, several messages
// in a frame, a frame in fragments, a connection cut inside a frame. What it answers to a sync step 1 is right: all that
// it has sent so far, with the causes. So every server that keeps the protocol ends with the text of all updates.

import * as Y from 'yjs'
import { once } from 'node:events'
import WebSocket, { Sender } from 'ws'
import * as encoding from 'lib0/encoding'
import * as decoding from 'lib0/decoding'

import { Random } from './random.mjs'
import { pause, turn } from './connection.mjs'

const SYNC = 0
const STEP_1 = 0
const STEP_2 = 1
const UPDATE = 2
const BUFFERED_BYTES_MAX = 1 << 20

const SHARES = { duplicate: 0.1, join: 0.5, fragment: 0.1, cut: 0.002 }

// One client per agent; resolves to the clients once all is sent and each has synced anew.
export async function sendMangled ({ url, document, token, updates, window, seed, figures, deadline }) {
  const random = new Random(seed)
  const address = `${url.replace(/\/+$/, '')}/${document}` + (token === undefined ? '' : `?token=${encodeURIComponent(token)}`)
  const agents = [...new Set(updates.map(({ agent }) => agent))]
  return Promise.all(agents.map(async agent => {
    const client = new MangledClient(address, random.branch(), figures, deadline)
    await client.open()
    const plan = shuffled(updates.map((_, index) => index).filter(index => updates[index].agent === agent), window, client)
    let known = 0 // updates before this one are in the client's own document
    while (plan.length > 0) {
      const frame = [plan.shift()]
      while (plan.length > 0 && frame.length < 5 && client.random.chance(SHARES.join)) frame.push(plan.shift())
      for (const upTo = Math.max(...frame) + 1; known < upTo; known++) Y.applyUpdate(client.doc, updates[known].update)
      await client.send(frame.map(index => updates[index].update))
    }
    await client.reopen()
    return client
  }))
}

// The indexes, some twice, each at most about `window` places from where it belongs.
function shuffled (indexes, window, { random, figures }) {
  const placed = []
  indexes.forEach((index, place) => {
    placed.push([place + random.next() * window, index])
    if (random.chance(SHARES.duplicate)) {
      placed.push([place + random.next() * window * 4, index])
      figures.duplicates++
    }
  })
  return placed.sort((a, b) => a[0] - b[0]).map(([, index]) => index)
}

class MangledClient {
  constructor (address, random, figures, deadline) {
    Object.assign(this, { address, random, figures, deadline, doc: new Y.Doc(), socket: null })
  }

  // Connects, retrying while the server is away, and asks for what it has.
  async open () {
    for (;;) {
      const socket = new WebSocket(this.address)
      socket.binaryType = 'arraybuffer'
      socket.on('error', () => {})
      socket.on('message', data => this.receive(socket, new Uint8Array(data)))
      const opened = await Promise.race([
        once(socket, 'open').then(() => true, () => false),
        once(socket, 'close').then(() => false, () => false)
      ])
      if (opened) {
        this.socket = socket
        socket.send(message(STEP_1, Y.encodeStateVector(this.doc)))
        return
      }
      if (performance.now() > this.deadline) throw new Error(`time is up: ${this.address.split('?')[0]} does not accept`)
      await pause(100)
    }
  }

  receive (socket, frame) {
    const decoder = decoding.createDecoder(frame)
    while (decoding.hasContent(decoder)) {
      const type = decoding.readVarUint(decoder)
      const kind = type === SYNC ? decoding.readVarUint(decoder) : null
      if (type !== SYNC && !decoding.hasContent(decoder)) return
      const payload = decoding.readVarUint8Array(decoder)
      if (kind !== STEP_1) continue
      this.figures.repairs++
      if (socket.readyState === WebSocket.OPEN) socket.send(message(STEP_2, Y.encodeStateAsUpdate(this.doc, payload)))
    }
  }

  async send (updates) {
    if (this.socket.readyState !== WebSocket.OPEN) await this.reopen()
    const frame = Buffer.concat(updates.map(update => message(UPDATE, update)))
    this.figures.frames++
    this.figures.sent += updates.length
    if (this.random.chance(SHARES.cut)) return this.cut(frame)
    if (frame.length > 1 && this.random.chance(SHARES.fragment)) {
      const middle = 1 + this.random.below(frame.length - 1)
      this.socket.send(frame.subarray(0, middle), { fin: false })
      this.socket.send(frame.subarray(middle), { fin: true })
      this.figures.fragmented++
    } else {
      this.socket.send(frame)
    }
    await turn()
    while (this.socket.bufferedAmount > BUFFERED_BYTES_MAX) await pause(1)
  }

  // Sends a part of the frame and goes away without a close.
  async cut (frame) {
    this.figures.cut++
    const bytes = Buffer.concat(Sender.frame(frame, {
      fin: true, mask: true, opcode: 2, readOnly: true, rsv1: false, generateMask: undefined, maskBuffer: undefined
    }))
    const tcp = this.socket._socket
    await new Promise(resolve => tcp.write(bytes.subarray(0, 1 + this.random.below(bytes.length - 1)), resolve))
    this.socket.terminate()
    await this.reopen()
  }

  async reopen () {
    this.socket.terminate()
    await this.open()
  }

  close () {
    this.socket.terminate()
  }
}

function message (kind, payload) {
  const encoder = encoding.createEncoder()
  encoding.writeVarUint(encoder, SYNC)
  encoding.writeVarUint(encoder, kind)
  encoding.writeVarUint8Array(encoder, payload)
  return encoding.toUint8Array(encoder)
}
