// Presence between stock clients: each sees the other's state, and a client that dies without a close disappears.
const USAGE = `
awareness.mjs --url ws://HOST:PORT/v1/documents --document ID
  --clients N     clients; the first one is killed (2)
  --token T       sent as ?token=T
  --timeout S     seconds until states must be seen (10)
  --removal S     seconds until the killed client's state must be gone (10); Yjs drops a silent one after 30 by itself

Prints {"document", "seenMs", "changeMs", "removedMs"}: until the states were seen, a change of one, and its removal.
Fails when a state is not seen or not removed in time.
`

import { readFlags, print, run, REQUIRED } from './flags.mjs'
import { connect, synced, until } from './connection.mjs'

const flags = readFlags(USAGE, {
  url: REQUIRED,
  document: REQUIRED,
  clients: 2,
  token: undefined,
  timeout: 10,
  removal: 10
})

const state = number => ({ user: { name: `editor ${number} 🧬`, color: '#30bced' }, cursor: { anchor: number, head: number + 1 } })

async function measured (condition, seconds, what) {
  const start = performance.now()
  await until(condition, start + seconds * 1000, what)
  return Math.round(performance.now() - start)
}

run(async () => {
  const clients = Array.from({ length: flags.clients }, () => connect(flags))
  const deadline = performance.now() + flags.timeout * 1000
  await Promise.all(clients.map(client => synced(client, deadline)))
  const states = ({ provider }) => provider.awareness.getStates()
  const sees = (viewer, viewed, want) =>
    JSON.stringify(states(viewer).get(viewed.doc.clientID)) === JSON.stringify(want)
  const allSee = () => clients.every(viewer => clients.every((viewed, number) => sees(viewer, viewed, state(number))))

  clients.forEach(({ provider }, number) => provider.awareness.setLocalState(state(number)))
  const seenMs = await measured(allSee, flags.timeout, () => 'a client does not see the states of all')

  const [dying, ...others] = clients
  const moved = { ...state(0), cursor: { anchor: 7, head: 9 } }
  dying.provider.awareness.setLocalState(moved)
  const changeMs = await measured(() => others.every(viewer => sees(viewer, dying, moved)), flags.timeout,
    () => 'a change of state is not seen')

  dying.provider.shouldConnect = false
  dying.provider.ws.terminate()
  const removedMs = await measured(() => others.every(viewer => !states(viewer).has(dying.doc.clientID)), flags.removal,
    () => `the state of a client that died is still there after ${flags.removal} s`)
  print({ document: flags.document, seenMs, changeMs, removedMs })
})
