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
  --ack-wait S    seconds to wait for them (5); those that do not come are no failure: see "acknowledged"
  --unique        inserts are tokens "[CLIENT.NUMBER:text]", put between tokens; clients delete only tokens of their own
  --forgetful     a client that loses its connection throws its document away and starts anew from the server's: then no
                  client can give back what a server lost. For use with --unique

Prints {"seed"}, each second {"acknowledged", "sent"}, and for each document
  {"document", "text", "roots", "stateVector", "sent", "echoed", "covered", "acknowledged", "forgotten", "perClient":
   [the same figures, with "client"], "reconnects", "converged": true} (the words: ledger.mjs)
with --unique also {"inserted", "deleted", "lost", "duplicated", "resurrected"}: lost are the tokens whose insert was
acknowledged and that nobody tried to delete, and that are not in the text; duplicated stand there twice; resurrected
are there after their delete was acknowledged.
Converged means: state vectors and roots are equal in all clients and in a client that connected afterwards.
Fails when they have not converged in time, or when a token is lost, duplicated or resurrected; forgotten edits are for
the caller to judge (a server may answer from an older state for a while).
`

import { readFlags, print, run, REQUIRED } from './flags.mjs'
import { Random } from './random.mjs'
import { synced, until } from './connection.mjs'
import { Editor, ROOTS, checkTokens } from './editor.mjs'
import { roots, stateVector } from './projection.mjs'

const FIGURES = ['sent', 'echoed', 'covered', 'acknowledged', 'forgotten']

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
  unique: false,
  forgetful: false
})
const deadline = performance.now() + flags.timeout * 1000

const total = (editors, field) => editors.reduce((sum, editor) => sum + editor.figures()[field], 0)

// Waits until all editors of a document have one state, and returns a client that found the same one there afterwards.
async function converge (document, editors) {
  const pictures = () => new Set(editors.map(editor => editor.picture()))
  const unsynced = () => editors.filter(({ client }) => !client.provider.synced).length
  await until(() => unsynced() === 0 && pictures().size === 1, deadline, () =>
    `${document}: ${pictures().size} different states in ${editors.length} clients, ${unsynced()} of them not synced`, 50)
  if (!flags['no-ack']) {
    const patience = Math.min(deadline, performance.now() + flags['ack-wait'] * 1000)
    await until(() => editors.every(({ waiting }) => waiting === 0), patience, () => '').catch(() => {})
  }
  const late = new Editor('late', new Random(flags.seed), { ...flags, document })
  await until(() => late.client.provider.synced && late.picture() === editors[0].picture(), deadline,
    () => `${document}: a client that connected afterwards sees another state`, 20)
  return late
}

function report (document, editors, late) {
  const text = late.text.toString()
  return {
    document,
    text,
    roots: roots(late.doc, ROOTS),
    stateVector: stateVector(late.doc),
    ...Object.fromEntries(FIGURES.map(field => [field, total(editors, field)])),
    perClient: editors.map(editor => editor.figures()),
    reconnects: editors.reduce((count, { connections }) => count + connections - 1, 0),
    converged: true,
    ...(flags.unique ? checkTokens(editors, text) : {})
  }
}

run(async () => {
  const random = new Random(flags.seed)
  const documents = new Map(flags.document.split(',').map(document => [
    document,
    Array.from({ length: flags.clients }, (_, number) =>
      new Editor(number, random.branch(), { ...flags, document, deadline }))
  ]))
  const everyone = [...documents.values()].flat()
  const progress = setInterval(() => {
    print({ acknowledged: total(everyone, 'acknowledged'), sent: total(everyone, 'sent') })
  }, 1000)
  await Promise.all(everyone.map(editor => synced(editor.client, deadline)))
  await Promise.all(everyone.map(editor => editor.work()))
  const reports = await Promise.all([...documents].map(async ([document, editors]) =>
    report(document, editors, await converge(document, editors))))
  clearInterval(progress)
  reports.forEach(print)
  const broken = reports.flatMap(({ lost = [], duplicated = [], resurrected = [] }) => [...lost, ...duplicated, ...resurrected])
  if (broken.length > 0) throw new Error(`tokens lost, duplicated or resurrected: ${broken.slice(0, 10).join(' ')}`)
})
