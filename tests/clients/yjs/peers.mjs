// The other servers that these scripts run against, each in a child process of its own, on a free port of this machine.
//
//   y-websocket          @y/websocket-server 0.1.1, the last one for Yjs 13, in memory
//   y-websocket-leveldb  the same with its LevelDB persistence, which it does not wait for
//   hocuspocus           @hocuspocus/server, in memory
//   hocuspocus-files     the same with its database extension writing one file a document, two seconds after an edit at
//                        the earliest (its default); its SQLite extension needs a native build and is not installed
import { spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { pause } from './connection.mjs'

export const PEERS = ['y-websocket', 'y-websocket-leveldb', 'hocuspocus', 'hocuspocus-files']

const script = path => fileURLToPath(new URL(path, import.meta.url))

// Starts a peer; returns {url, pid, stop}. The server is stopped at the latest when this process exits.
export async function start (peer, port = undefined) {
  port ??= await freePort()
  const folder = mkdtempSync(join(tmpdir(), 'engram-peer-'))
  const environment = { ...process.env, HOST: '127.0.0.1', PORT: String(port) }
  let path = './hocuspocus_server.mjs'
  if (peer.startsWith('y-websocket')) {
    path = './node_modules/@y/websocket-server/src/server.js'
    if (peer.endsWith('leveldb')) environment.YPERSISTENCE = folder
  } else if (peer.endsWith('files')) {
    environment.FOLDER = folder
  }
  const child = spawn(process.execPath, [script(path)], { env: environment, stdio: ['ignore', 'ignore', 'inherit'] })
  const kill = () => { child.kill('SIGKILL') }
  process.on('exit', kill)
  const end = Date.now() + 10_000
  for (;;) {
    const answer = await fetch(`http://127.0.0.1:${port}/`).catch(() => null)
    if (answer?.ok) break
    if (child.exitCode !== null || Date.now() > end) throw new Error(`${peer} does not start on port ${port}`)
    await pause(50)
  }
  return {
    url: `ws://127.0.0.1:${port}`,
    pid: child.pid,
    async stop () {
      process.off('exit', kill)
      if (child.exitCode === null) {
        const gone = once(child, 'exit')
        kill()
        await gone
      }
      rmSync(folder, { recursive: true, force: true })
    }
  }
}

async function freePort () {
  const listener = createServer().listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const { port } = listener.address()
  listener.close()
  await once(listener, 'close')
  return port
}
