// What idle connections cost a server: opens many that say what stock editors say at first, and then nothing.
const USAGE = `
idle.mjs --url ws://HOST:PORT/v1/documents --pid PID
  --pid PID           the server's process, on this machine
  --document D        beginning of the documents' ids (idle)
  --documents N       documents, each with its share of the connections (1)
  --connections N     connections (1000)
  --token T           sent as ?token=T

Prints {"connections", "documents", "bytesEach"}: by how much the server's resident memory has grown, for each of them.
`

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import WebSocket from 'ws'
import { readFlags, print, run, REQUIRED } from './flags.mjs'

const flags = readFlags(USAGE, {
  url: REQUIRED,
  pid: REQUIRED,
  document: 'idle',
  documents: 1,
  connections: 1000,
  token: undefined
})

const resident = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${flags.pid}/status`, 'utf8'))[1]) * 1024

// Step 1 of an empty document, and a presence without anything: y-protocols, sync.js and awareness.js.
const greet = (socket, number) => {
  socket.send(Uint8Array.of(0, 0, 1, 0))
  socket.send(Uint8Array.of(1, 7, 1, 0x80 | (number & 0x7f), number >> 7, 0, 2, 0x7b, 0x7d))
}

const open = number => new Promise((resolve, reject) => {
  const query = flags.token === undefined ? '' : `?token=${flags.token}`
  const socket = new WebSocket(`${flags.url}/${flags.document}${number % flags.documents}${query}`)
  socket.on('error', reject)
  socket.once('open', () => greet(socket, number))
  socket.once('message', () => resolve(socket))
})

run(async () => {
  for (let number = 0; number < flags.documents; number++) await open(number)
  await sleep(1000)
  const before = resident()
  for (let number = 0; number < flags.connections; number++) await open(flags.documents + number)
  await sleep(3000)
  const bytesEach = Math.round((resident() - before) / flags.connections)
  print({ connections: flags.connections, documents: flags.documents, bytesEach })
})
