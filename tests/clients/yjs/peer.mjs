// Runs one of the peers of peers.mjs by hand until it is interrupted.
const USAGE = `
peer.mjs --peer y-websocket|y-websocket-leveldb|hocuspocus|hocuspocus-files [--port P]

Prints {"peer", "url", "pid"} once the server accepts connections.
`

import { readFlags, print, run } from './flags.mjs'
import { PEERS, start } from './peers.mjs'

const flags = readFlags(USAGE, { peer: 'y-websocket', port: 0 })

run(async () => {
  if (!PEERS.includes(flags.peer)) throw new Error(`--peer is one of ${PEERS.join(', ')}`)
  const server = await start(flags.peer, flags.port || undefined)
  print({ peer: flags.peer, url: server.url, pid: server.pid })
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => server.stop().then(() => process.exit(0)))
  await new Promise(() => setInterval(() => {}, 1 << 30))
})
