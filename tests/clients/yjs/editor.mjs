// One editor of editors.mjs: a stock client that makes random edits and knows which of them were acknowledged.

import * as Y from 'yjs'

import { outsidePair } from './random.mjs'
import { connect, pause, turn, until } from './connection.mjs'
import { Ledger } from './ledger.mjs'
import { roots, stateVector } from './projection.mjs'

export const ROOTS = { text: 'text', meta: 'map', list: 'array' }

const FORMATS = [{ bold: true }, { bold: null }, { size: 3 }]

export class Editor {
  // `options`: url, token, document, edits, rate, formats, unique, forgetful, deadline.
  constructor (number, random, options) {
    Object.assign(this, { number, random, options })
    this.ledgers = [] // one a Y.Doc: a forgetful editor has many
    this.tokens = new Map() // mark -> {inserted: edit, deleted: edit or null}
    this.connections = 0
    this.start()
  }

  start () {
    const ledger = new Ledger()
    const clientID = 1 + this.random.below(2 ** 32 - 1)
    this.ledgers.push(ledger)
    this.client = connect({ ...this.options, clientID, ledger })
    this.doc = this.client.doc
    this.text = this.doc.getText('text')
    this.doc.on('update', (update, origin) => {
      if (origin !== this) return
      const clock = this.clock()
      this.edit = ledger.record(update, clock > this.clockBefore ? [clientID, clock] : null)
    })
    this.client.provider.on('status', ({ status }) => {
      if (status === 'connected') this.connections++
      if (status === 'disconnected' && this.options.forgetful && !this.closed) this.forget()
    })
  }

  // Gives up the document with all that was not acknowledged, as an editor does that is closed after losing its server.
  forget () {
    this.client.close()
    this.start()
  }

  close () {
    this.closed = true
    this.client.close()
  }

  clock () {
    return Y.getState(this.doc.store, this.doc.clientID)
  }

  async work () {
    const { edits, rate, forgetful, deadline } = this.options
    const started = performance.now()
    for (let done = 0; done < edits; done++) {
      if (forgetful) await until(() => this.client.provider.synced, deadline, () => `client ${this.number} is not synced`)
      this.clockBefore = this.clock()
      this.doc.transact(() => this.change(done), this)
      if (rate > 0) await pause(Math.max(0, started + (done + 1) * 1000 / rate - performance.now()))
      else await turn()
    }
  }

  change (number) {
    const { random, options } = this
    const kind = random.next()
    if (kind < 0.08) return this.changeMap()
    if (kind < 0.16) return this.changeList()
    if (kind < 0.22 && options.formats && this.text.length > 0) return this.format()
    if (options.unique) return kind < 0.35 ? this.deleteToken(number) : this.insertToken(number)
    const text = this.text.toString()
    if (kind < 0.4 && text.length > 0) return this.delete(text)
    this.text.insert(outsidePair(text, random.below(text.length + 1)), random.string(12))
  }

  delete (text) {
    const from = outsidePair(text, this.random.below(text.length))
    const to = outsidePair(text, Math.min(text.length, from + 1 + this.random.below(8)))
    if (to > from) this.text.delete(from, to - from)
    else this.text.insert(0, 'x')
  }

  insertToken (number) {
    const text = this.text.toString()
    const mark = `[${this.number}.${number}:`
    const after = text.indexOf(']', this.random.below(text.length + 1))
    const token = { inserted: null, deleted: null }
    this.tokens.set(mark, token)
    this.afterwards(() => { token.inserted = this.edit })
    this.text.insert(after < 0 ? text.length : after + 1, mark + this.random.string(10).replace(/\[|\]/g, '') + ']')
  }

  // Deletes a token that this editor inserted and still sees; where there is none, inserts one.
  deleteToken (number) {
    const text = this.text.toString()
    const own = [...this.tokens].filter(([mark, { deleted }]) => deleted === null && text.includes(mark))
    if (own.length === 0) return this.insertToken(number)
    const [mark, token] = this.random.pick(own)
    const from = text.indexOf(mark)
    this.afterwards(() => { token.deleted = this.edit })
    this.text.delete(from, text.indexOf(']', from) + 1 - from)
  }

  // Once the transaction that is open has become an edit.
  afterwards (note) {
    this.doc.once('afterAllTransactions', note)
  }

  format () {
    const text = this.text.toString()
    const from = outsidePair(text, this.random.below(text.length))
    const to = outsidePair(text, Math.min(text.length, from + 1 + this.random.below(10)))
    if (to > from) this.text.format(from, to - from, this.random.pick(FORMATS))
    this.doc.getMap('meta').set('formatted', this.random.below(1000))
  }

  changeMap () {
    const meta = this.doc.getMap('meta')
    const key = this.random.pick(['title', 'owner', 'tags', 'size', 'ключ', '🔑'])
    if (meta.has(key) && this.random.chance(0.2)) meta.delete(key)
    else meta.set(key, this.random.chance(0.5) ? this.random.string(8) : this.random.below(1e6))
  }

  changeList () {
    const list = this.doc.getArray('list')
    if (list.length > 0 && this.random.chance(0.3)) list.delete(this.random.below(list.length))
    else list.insert(this.random.below(list.length + 1), [this.random.chance(0.5) ? this.random.string(5) : this.number])
  }

  figures () {
    const sum = field => this.ledgers.reduce((total, ledger) => total + field(ledger), 0)
    return {
      client: this.doc.clientID,
      sent: sum(({ edits }) => edits.length),
      echoed: sum(({ echoed }) => echoed),
      covered: sum(({ covered }) => covered),
      acknowledged: sum(({ acknowledged }) => acknowledged),
      forgotten: sum(({ forgotten }) => forgotten)
    }
  }

  // Edits that an acknowledgement may still come for: those of documents given up are not among them.
  get waiting () {
    const ledger = this.ledgers.at(-1)
    return ledger.edits.length - ledger.acknowledged
  }

  picture () {
    return JSON.stringify([stateVector(this.doc), roots(this.doc, ROOTS)])
  }
}

// What became of the editors' tokens in the final `text`.
export function checkTokens (editors, text) {
  const found = new Map()
  for (const [mark] of text.matchAll(/\[\d+\.\d+:/g)) found.set(mark, (found.get(mark) ?? 0) + 1)
  const result = { inserted: 0, deleted: 0, lost: [], duplicated: [], resurrected: [] }
  const acknowledged = edit => edit !== null && edit.state !== 'sent'
  for (const { tokens } of editors) {
    for (const [mark, { inserted, deleted }] of tokens) {
      const there = found.get(mark) ?? 0
      result.inserted++
      if (deleted !== null) result.deleted++
      if (deleted === null && acknowledged(inserted) && there === 0) result.lost.push(mark)
      if (acknowledged(deleted) && there > 0) result.resurrected.push(mark)
      if (there > 1) result.duplicated.push(mark)
    }
  }
  return result
}
