// How every script here begins and ends: flags from the command line, JSON lines on standard output, exit code 1 with
// one line on standard error when it fails.

import { parseArgs } from 'node:util'
import { basename } from 'node:path'

export const REQUIRED = Symbol('required')

// The flags of `defaults`, whose values say the types: a number, a string, a boolean (false), a string that must be
// given (REQUIRED) or one that may be absent (undefined). A `seed` that is not given is drawn; it is always printed.
export function readFlags (usage, defaults) {
  const options = { help: { type: 'boolean', short: 'h' } }
  for (const [name, value] of Object.entries(defaults)) {
    options[name] = { type: value === false ? 'boolean' : 'string' }
  }
  let given
  try {
    given = parseArgs({ options, strict: true }).values
  } catch (error) {
    fail(error, 2)
  }
  if (given.help) {
    process.stdout.write(usage.trim() + '\n')
    process.exit(0)
  }
  const flags = {}
  for (const [name, value] of Object.entries(defaults)) {
    if (given[name] === undefined) {
      if (value === REQUIRED) fail(new Error(`--${name} is required (see --help)`), 2)
      flags[name] = value
    } else if (typeof value === 'number') {
      flags[name] = Number(given[name])
      if (!Number.isFinite(flags[name])) fail(new Error(`--${name} takes a number, not ${given[name]}`), 2)
    } else {
      flags[name] = given[name]
    }
  }
  if ('seed' in flags) {
    if (given.seed === undefined) flags.seed = Math.floor(Math.random() * 2 ** 31)
    print({ seed: flags.seed })
  }
  return flags
}

export function print (line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

// Runs a script's `main` and ends the process: stock providers keep timers that would hold it open.
export async function run (main) {
  process.on('uncaughtException', error => fail(error))
  process.on('unhandledRejection', error => fail(error))
  process.setMaxListeners(0) // each stock provider listens for the process's exit
  try {
    await main()
  } catch (error) {
    fail(error)
  }
  // Once all that was printed is out: a pipe takes no more than it has room for.
  process.stdout.write('', () => process.exit(0))
}

export function fail (error, code = 1) {
  const message = error instanceof Error ? error.message : String(error)
  process.stderr.write(`${basename(process.argv[1])}: ${message.split('\n').join(' ')}\n`)
  process.exit(code)
}
