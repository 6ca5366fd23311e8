// Stock clients: a Y.Doc and an unmodified WebsocketProvider, whose sockets are watched from below.

import * as Y from 'yjs'
import { WebsocketProvider } from 'y-websocket'
import WebSocket from 'ws'

// Opens a client on a document. A `ledger` sees all frames. Returns {doc, provider, close}.
export function connect ({ url, document, token, clientID, ledger, gc = true }) {
  const doc = new Y.Doc({ gc })
  if (clientID !== undefined) doc.clientID = clientID
  const provider = new WebsocketProvider(url, document, doc, {
    WebSocketPolyfill: ledger === undefined ? WebSocket : watched(ledger),
    disableBc: true,
    params: token === undefined ? {} : { token }
  })
  return {
    doc,
    provider,
    close () {
      provider.destroy()
      doc.destroy()
    }
  }
}

function watched (ledger) {
  return class extends WebSocket {
    constructor (address, protocols) {
      super(address, protocols)
      this.on('message', data => ledger.received(new Uint8Array(data)))
    }

    send (data, ...rest) {
      ledger.sent(new Uint8Array(data))
      return super.send(data, ...rest)
    }
  }
}

export const pause = ms => new Promise(resolve => setTimeout(resolve, ms))
export const turn = () => new Promise(resolve => setImmediate(resolve))

// Waits until `condition()` holds; fails with `what()` at `deadline`, a reading of performance.now().
export async function until (condition, deadline, what, everyMs = 5) {
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`time is up: ${what()}`)
    await pause(everyMs)
  }
}

export const synced = (client, deadline) =>
  until(() => client.provider.synced, deadline, () => `${client.provider.roomname} is not synced`)
