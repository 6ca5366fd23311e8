// Random operations on a Y.Doc: text with formats and embeds, maps, arrays, types inside types, a little XML. Positions
// in texts never fall inside a surrogate pair.

import * as Y from 'yjs'

import { outsidePair } from './random.mjs'

export const ROOTS = { text: 'text', map: 'map', array: 'array', xml: 'xml' }

const KEYS = ['a', 'b', 'title', 'ключ', '🔑']
const FORMATS = [{ bold: true }, { bold: null }, { italic: true }, { italic: null }, { color: 'red' }, { color: 'blue' }]
const DEPTH_MAX = 3

// One operation on a root of `doc`, or on a type inside it; notes the root's name in `touched`.
export function change (doc, random, touched) {
  const kind = random.next()
  const name = kind < 0.4 ? 'text' : kind < 0.65 ? 'map' : kind < 0.88 ? 'array' : 'xml'
  touched.add(name)
  switch (name) {
    case 'text': return changeText(doc.getText(name), random)
    case 'map': return changeInside(doc.getMap(name), random, 0)
    case 'array': return changeInside(doc.getArray(name), random, 0)
    case 'xml': return changeXml(doc.getXmlFragment(name), random, 0)
  }
}

function changeText (text, random) {
  const kind = random.next()
  const string = positions(text)
  const place = index => outsidePair(string, index)
  const from = place(random.below(text.length + 1))
  if (kind < 0.5 || text.length === 0) {
    if (random.chance(0.15)) return text.insert(from, random.string(6), random.pick(FORMATS))
    return text.insert(from, random.string(random.chance(0.1) ? 40 : 6))
  }
  if (kind < 0.6) return text.insertEmbed(from, random.chance(0.5) ? { image: random.below(100) } : { break: true })
  const to = place(Math.min(text.length, from + 1 + random.below(8)))
  if (to <= from) return text.insert(from, random.string(2))
  if (kind < 0.8) return text.delete(from, to - from)
  text.format(from, to - from, random.pick(FORMATS))
}

// The text as its positions count: toString() leaves out embeds, each of which takes one place.
function positions (text) {
  return text.toDelta().map(({ insert }) => typeof insert === 'string' ? insert : '\0').join('')
}

// Descends into a type inside `type` half of the time, where there is one.
function changeInside (type, random, depth) {
  const inside = [...(type instanceof Y.Map ? type.values() : type.toArray())].filter(child => child instanceof Y.AbstractType)
  if (inside.length > 0 && random.chance(0.5)) {
    const child = random.pick(inside)
    if (child instanceof Y.Text) return changeText(child, random)
    return changeInside(child, random, depth + 1)
  }
  if (type instanceof Y.Map) changeMap(type, random, depth)
  else changeArray(type, random, depth)
}

function changeMap (map, random, depth) {
  const key = random.pick(KEYS)
  if (map.has(key) && random.chance(0.25)) map.delete(key)
  else map.set(key, value(random, depth))
}

function changeArray (array, random, depth) {
  const index = random.below(array.length + 1)
  if (index < array.length && random.chance(0.35)) {
    return array.delete(index, 1 + random.below(Math.min(3, array.length - index)))
  }
  array.insert(index, Array.from({ length: random.chance(0.7) ? 1 : 1 + random.below(4) }, () => value(random, depth)))
}

function value (random, depth) {
  const kind = random.next()
  if (kind < 0.25 && depth < DEPTH_MAX) {
    const type = random.below(3)
    if (type === 0) return new Y.Map(random.chance(0.5) ? [['a', plain(random)]] : [])
    if (type === 1) return random.chance(0.5) ? Y.Array.from([plain(random), plain(random)]) : new Y.Array()
    return new Y.Text(random.chance(0.5) ? random.string(6) : '')
  }
  return plain(random)
}

function plain (random) {
  switch (random.below(9)) {
    case 0: return null
    case 1: return random.chance(0.5)
    case 2: return random.below(200) - 100
    case 3: return random.below(2 ** 31) * 1024 // beyond 32 bits: Yjs writes it as a float
    case 4: return (random.below(2000) - 1000) / 8 // exact in 32 bits
    case 5: return random.next() * 1e6
    case 6: return { x: random.below(10), [random.pick(KEYS)]: [random.string(3), null] }
    case 7: return ''
    default: return random.string(8)
  }
}

function changeXml (parent, random, depth) {
  const children = parent.toArray()
  const inside = children.filter(child => !(child instanceof Y.XmlHook))
  if (inside.length > 0 && random.chance(0.5) && depth < DEPTH_MAX) {
    const child = random.pick(inside)
    if (child instanceof Y.XmlText) return changeXmlText(child, random)
    if (random.chance(0.3)) return changeAttribute(child, random)
    return changeXml(child, random, depth + 1)
  }
  const index = random.below(parent.length + 1)
  if (index < parent.length && random.chance(0.3)) return parent.delete(index, 1)
  parent.insert(index, [random.chance(0.5) ? new Y.XmlElement(random.pick(['p', 'h1', 'li'])) : new Y.XmlText(random.string(6))])
}

function changeAttribute (element, random) {
  const name = random.pick(['id', 'class'])
  if (element.getAttribute(name) !== undefined && random.chance(0.3)) element.removeAttribute(name)
  else element.setAttribute(name, random.string(3).replace(/["<>&\n]/g, ''))
}

function changeXmlText (text, random) {
  if (text.length === 0 || random.chance(0.7)) return changePlainXmlText(text, random)
  const string = positions(text)
  const from = outsidePair(string, random.below(text.length))
  const to = outsidePair(string, Math.min(text.length, from + 3))
  if (to > from) text.format(from, to - from, random.pick([{ b: {} }, { i: {} }, { b: null }]))
}

function changePlainXmlText (text, random) {
  const string = positions(text)
  const place = index => outsidePair(string, index)
  const from = place(random.below(text.length + 1))
  const to = place(Math.min(text.length, from + 1 + random.below(4)))
  if (to > from && random.chance(0.3)) text.delete(from, to - from)
  else text.insert(from, random.string(5))
}
