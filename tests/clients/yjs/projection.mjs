// A document as two replicas can be compared by it: JSON of its roots and its state vector, both in one fixed order.
// (Yjs's own maps iterate in the order in which a replica happened to learn their keys.)

import * as Y from 'yjs'

// Roots of `doc` by name, where `types` names their types: {text: "text", meta: "map", list: "array", page: "xml"}.
export function roots (doc, types) {
  const result = {}
  for (const name of Object.keys(types).sort()) {
    result[name] = value(doc, name, types[name])
  }
  return result
}

function value (doc, name, type) {
  switch (type) {
    case 'text': return doc.getText(name).toString()
    case 'map': return sorted(doc.getMap(name).toJSON())
    case 'array': return sorted(doc.getArray(name).toJSON())
    case 'xml': return doc.getXmlFragment(name).toString()
    default: throw new Error(`no such type: ${type}`)
  }
}

export function sorted (value) {
  if (Array.isArray(value)) return value.map(sorted)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.keys(value).sort().map(key => [key, sorted(value[key])]))
}

// [[client, clock], ...], by client.
export function stateVector (doc) {
  return [...Y.decodeStateVector(Y.encodeStateVector(doc))].sort((a, b) => a[0] - b[0])
}
