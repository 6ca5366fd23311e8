// Many stock editors at work on the same documents at once, while servers may be killed and restarted under them.
const USAGE = `
editors.mjs --url ws://HOST:PORT/v1/documents --document ID[,ID..]
  --clients N     clients per document (3)
  --edits M       edits per client (100)
  --seed S        repeats the choices; what an edit meets depends on the network all the same
  --token T       sent as ?token=T
  --rate R        edits a second per client (0: as fast as they go)
  --timeout S     seconds for everything (60)
  --formats       some edits format text
  --no-ack        do not wait for acknowledgements after the clients have converged
  --ack-wait S    seconds to wait for them (5)
  --unique        inserts are tokens "[CLIENT.NUMBER:text]", put between tokens; clients delete only tokens of their own

Prints {"seed"}, each second {"acknowledged", "sent"}, and for each document
  {"document", "text", "roots", "stateVector", "sent", "echoed", "covered", "acknowledged", "perClient":
   [{"client", "sent", "echoed", "covered", "acknowledged"}], "reconnects", "converged": true}
with --unique also {"inserted", "deleted", "lost", "duplicated", "resurrected"}: lost are the tokens that were
acknowledged and never deleted, and are not in the text; duplicated stand there twice; resurrected were deleted.
Converged means: state vectors and roots are equal in all clients and in a client that connected afterwards.
Fails when they have not converged in time, or when a token is lost, duplicated or resurrected.
`

import * as Y from 'yjs'

import { readFlags, print, run, REQUIRED } from './flags.mjs'
import { Random, outsidePair } from './random.mjs'
import { connect, synced, until, pause, turn } from './connection.mjs'
import { Ledger } from './ledger.mjs'
import { roots, stateVector } from './projection.mjs'

const ROOTS = { text: 'text', meta: 'map', list: 'array' }

const flags = readFlags(USAGE, {
  url: REQUIRED,
  document: REQUIRED,
  clients: 3,
  edits: 100,
  seed: 1,
  token: undefined,
  rate: 0,
  timeout: 60,
  formats: false,
  'no-ack': false,
  'ack-wait': 5,
  unique: false
})
const deadline = performance.now() + flags.timeout * 1000

class Editor {
  constructor (document, number, random) {
    this.number = number
    this.random = random
    this.ledger = new Ledger()
    this.client = connect({ ...flags, document, ledger: this.ledger, clientID: 1 + random.below(2 ** 32 - 1) })
    this.doc = this.client.doc
    this.text = this.doc.getText('text')
    this.tokens = new Map() // of --unique: the token's mark -> {edit, deleted}
    this.reconnects = -1
    this.client.provider.on('status', ({ status }) => { this.reconnects += status === 'connected' ? 1 : 0 })
    this.doc.on('update', (update, origin) => {
      if (origin !== this) return
      const clock = this.clock()
      this.ledger.record(update, clock > this.clockBefore ? [this.doc.clientID, clock] : null)
    })
  }

  clock () {
    return Y.getState(this.doc.store, this.doc.clientID)
  }

  async work () {
    const started = performance.now()
    for (let done = 0; done < flags.edits; done++) {
      this.clockBefore = this.clock()
      this.doc.transact(() => this.change(done), this)
      if (flags.rate > 0) {
        await pause(Math.max(0, started + (done + 1) * 1000 / flags.rate - performance.now()))
      } else {
        await turn()
      }
    }
  }

  change (number) {
    const { random } = this
    const kind = random.next()
    if (kind < 0.08) return this.changeMap()
    if (kind < 0.16) return this.changeList()
    if (kind < 0.22 && flags.formats && this.text.length > 0) return this.format()
    if (flags.unique) {
      const own = [...this.tokens].filter(([, token]) => !token.deleted)
      return kind < 0.35 && own.length > 0 ? this.deleteToken(random.pick(own)) : this.insertToken(number)
    }
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
    const body = this.random.string(10).replace(/\[|\]/g, '')
    const mark = `[${this.number}.${number}:`
    const after = text.indexOf(']', this.random.below(text.length + 1))
    this.text.insert(after < 0 ? text.length : after + 1, mark + body + ']')
    this.tokens.set(mark, { number: this.ledger.edits.length, deleted: false })
  }

  deleteToken ([mark, token]) {
    const text = this.text.toString()
    const from = text.indexOf(mark)
    if (from < 0) throw new Error(`client ${this.number} no longer sees ${mark}..], which it never deleted`)
    this.text.delete(from, text.indexOf(']', from) + 1 - from)
    token.deleted = true
  }

  format () {
    const text = this.text.toString()
    const from = outsidePair(text, this.random.below(text.length))
    const to = outsidePair(text, Math.min(text.length, from + 1 + this.random.below(10)))
    if (to > from) this.text.format(from, to - from, this.random.pick([{ bold: true }, { bold: null }, { size: 3 }]))
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
    const { edits, echoed, covered, acknowledged } = this.ledger
    return { client: this.doc.clientID, sent: edits.length, echoed, covered, acknowledged }
  }

  picture () {
    return JSON.stringify([stateVector(this.doc), roots(this.doc, ROOTS), this.text.toDelta().length])
  }
}

const sum = (editors, field) => editors.reduce((total, editor) => total + editor.figures()[field], 0)

async function converge (document, editors) {
  const pictures = () => new Set(editors.map(editor => editor.picture()))
  const settled = () => editors.every(({ client }) => client.provider.synced) && pictures().size === 1
  await until(settled, deadline, () => `${document}: ${pictures().size} different states in ${editors.length} clients, ` +
    `${editors.filter(({ client }) => !client.provider.synced).length} of them not synced`, 50)
  if (!flags['no-ack']) {
    const patience = Math.min(deadline, performance.now() + flags['ack-wait'] * 1000)
    const all = () => sum(editors, 'acknowledged') === sum(editors, 'sent')
    await until(all, patience, () => '').catch(() => {})
  }
  const late = new Editor(document, 'late', new Random(flags.seed))
  await until(() => late.client.provider.synced && late.picture() === editors[0].picture(), deadline,
    () => `${document}: a client that connected afterwards sees another state`, 20)
  return late
}

function checkTokens (document, editors, text) {
  const found = new Map()
  for (const [mark] of text.matchAll(/\[\d+\.\d+:/g)) found.set(mark, (found.get(mark) ?? 0) + 1)
  const result = { inserted: 0, deleted: 0, lost: [], duplicated: [], resurrected: [] }
  for (const editor of editors) {
    for (const [mark, token] of editor.tokens) {
      const there = found.get(mark) ?? 0
      result.inserted++
      result.deleted += token.deleted ? 1 : 0
      if (!token.deleted && there === 0 && editor.ledger.edits[token.number].state !== 'sent') result.lost.push(mark)
      if (!token.deleted && there > 1) result.duplicated.push(mark)
      if (token.deleted && there > 0) result.resurrected.push(mark)
    }
  }
  return result
}

run(async () => {
  const random = new Random(flags.seed)
  const documents = new Map(flags.document.split(',').map(document => [
    document,
    Array.from({ length: flags.clients }, (_, number) => new Editor(document, number, random.branch()))
  ]))
  const everyone = [...documents.values()].flat()
  const progress = setInterval(() => {
    print({ acknowledged: sum(everyone, 'acknowledged'), sent: sum(everyone, 'sent') })
  }, 1000)
  await Promise.all(everyone.map(editor => synced(editor.client, deadline)))
  await Promise.all(everyone.map(editor => editor.work()))
  let broken = 0
  const finished = await Promise.all([...documents].map(async ([document, editors]) =>
    ({ document, editors, late: await converge(document, editors) })))
  for (const { document, editors, late } of finished) {
    const total = field => sum(editors, field)
    const line = {
      document,
      text: late.text.toString(),
      roots: roots(late.doc, ROOTS),
      stateVector: stateVector(late.doc),
      sent: total('sent'),
      echoed: total('echoed'),
      covered: total('covered'),
      acknowledged: total('acknowledged'),
      perClient: editors.map(editor => editor.figures()),
      reconnects: editors.reduce((count, editor) => count + editor.reconnects, 0),
      converged: true
    }
    if (flags.unique) Object.assign(line, checkTokens(document, editors, line.text))
    print(line)
    for (const kind of ['lost', 'duplicated', 'resurrected']) broken += (line[kind] ?? []).length
    for (const editor of [...editors, late]) editor.client.close()
  }
  clearInterval(progress)
  if (broken > 0) throw new Error(`${broken} tokens are lost, duplicated or resurrected`)
})
