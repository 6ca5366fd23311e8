// A Hocuspocus server for peers.mjs: listens on HOST:PORT; with FOLDER it keeps each document in a file there.

import { readFile, writeFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { Server } from '@hocuspocus/server'
import { Database } from '@hocuspocus/extension-database'

const { HOST, PORT, FOLDER } = process.env
const file = name => join(FOLDER, encodeURIComponent(name))

const files = new Database({
  fetch: ({ documentName }) => readFile(file(documentName)).catch(() => null),
  async store ({ documentName, state }) {
    await writeFile(file(documentName) + '.new', state)
    await rename(file(documentName) + '.new', file(documentName))
  }
})

await new Server({ address: HOST, port: Number(PORT), quiet: true, extensions: FOLDER ? [files] : [] }).listen()
