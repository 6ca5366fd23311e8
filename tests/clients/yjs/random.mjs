// Random choices that a seed repeats: the generator is mulberry32, which is small and fast and needs no big integers.

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz ABCDEFGH 0123456789 .,;\n'
const BEYOND_ASCII = ['ä', 'ß', 'é', 'Ж', '中', '日', '\u200d', '\u0301'] // one UTF-16 unit each
const ASTRAL = ['😀', '🚀', '👩', '🏽', '𝒳', '𐍈', '🧬', '🇪'] // two UTF-16 units each

export class Random {
  constructor (seed) {
    this.state = seed >>> 0
  }

  // A number in [0, 1).
  next () {
    this.state = (this.state + 0x6d2b79f5) >>> 0
    let word = this.state
    word = Math.imul(word ^ (word >>> 15), word | 1)
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61)
    return ((word ^ (word >>> 14)) >>> 0) / 4294967296
  }

  // An integer in [0, bound).
  below (bound) {
    return Math.floor(this.next() * bound)
  }

  chance (probability) {
    return this.next() < probability
  }

  pick (list) {
    return list[this.below(list.length)]
  }

  // A generator of its own for a part of the work, so that parts do not shift each other's choices.
  branch () {
    return new Random(this.below(4294967296))
  }

  // A client id as Yjs would draw it, and as small as some libraries draw them.
  clientID () {
    return this.chance(0.8) ? 1 + this.below(4294967295) : 1 + this.below(127)
  }

  // 1 to `max` characters, of which about one in ten is not ASCII.
  string (max) {
    let result = ''
    for (let left = 1 + this.below(max); left > 0; left--) {
      const kind = this.next()
      result += kind < 0.9 ? ALPHABET[this.below(ALPHABET.length)] : this.pick(kind < 0.95 ? ASTRAL : BEYOND_ASCII)
    }
    return result
  }
}

// The nearest place at or after `index` that does not lie inside a surrogate pair of `text`.
export function outsidePair (text, index) {
  const unit = text.charCodeAt(index)
  return unit >= 0xdc00 && unit <= 0xdfff ? index + 1 : index
}
