// Which of a client's edits its server has acknowledged, told from the frames of a stock provider's socket.
//
// An edit counts as
//   echoed   when an update with the very bytes of the edit, or of a sync step 2 that carried it, came back;
//   covered  when it was not echoed, and a sync step 1 of the server named a clock at or after its last insert: the
//            server may have died between making an edit durable and echoing it.
// An edit is forgotten when it was acknowledged and a later sync step 1 of the server names an earlier clock: what the
// server has then is an older state. A stock client sends it such edits again, so that nothing else would show the loss.

import * as Y from 'yjs'
import * as decoding from 'lib0/decoding'

const SYNC = 0
const STEP_1 = 0
const STEP_2 = 1
const UPDATE = 2

export class Ledger {
  constructor () {
    this.edits = []
    this.echoed = 0
    this.covered = 0
    this.forgotten = 0
    this.waiting = new Map() // bytes of an update -> the edits in it
    this.onEcho = () => {}
  }

  get acknowledged () {
    return this.echoed + this.covered
  }

  // An edit that the client has just made: `update` as its document emitted it; `insertedTo` is [client, clock] after
  // its last insert, or null for an edit that only deletes.
  record (update, insertedTo, mark) {
    const edit = { insertedTo, mark, state: 'sent' }
    this.edits.push(edit)
    this.await(update, [edit])
    return edit
  }

  await (update, edits) {
    const key = bytesKey(update)
    const there = this.waiting.get(key)
    this.waiting.set(key, there === undefined ? edits : there.concat(edits))
  }

  sent (frame) {
    const decoder = decoding.createDecoder(frame)
    if (decoding.readVarUint(decoder) !== SYNC || decoding.readVarUint(decoder) !== STEP_2) return
    const carried = this.edits.filter(edit => edit.state === 'sent')
    if (carried.length > 0) this.await(decoding.readVarUint8Array(decoder), carried)
  }

  received (frame) {
    const decoder = decoding.createDecoder(frame)
    while (decoding.hasContent(decoder)) {
      if (decoding.readVarUint(decoder) !== SYNC) {
        if (decoding.hasContent(decoder)) decoding.readVarUint8Array(decoder)
        continue
      }
      const kind = decoding.readVarUint(decoder)
      const payload = decoding.readVarUint8Array(decoder)
      if (kind === UPDATE) this.settleEcho(payload)
      if (kind === STEP_1) this.compareClocks(payload)
    }
  }

  settleEcho (update) {
    const key = bytesKey(update)
    const edits = this.waiting.get(key)
    if (edits === undefined) return
    this.waiting.delete(key)
    for (const edit of edits) {
      if (edit.state === 'echoed') continue
      if (edit.state === 'covered') this.covered--
      edit.state = 'echoed'
      this.echoed++
      this.onEcho(edit)
    }
  }

  compareClocks (payload) {
    const clocks = Y.decodeStateVector(payload)
    for (const edit of this.edits) {
      if (edit.insertedTo === null) continue
      const [client, clock] = edit.insertedTo
      const known = (clocks.get(client) ?? 0) >= clock
      if (known && edit.state === 'sent') {
        edit.state = 'covered'
        this.covered++
      } else if (!known && edit.state !== 'sent' && !edit.forgotten) {
        edit.forgotten = true
        this.forgotten++
      }
    }
  }
}

function bytesKey (bytes) {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}
