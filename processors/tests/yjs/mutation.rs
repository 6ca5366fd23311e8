//! Updates that no editor would write: real ones, damaged.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngExt as _};

/// Numbers at which something may overflow or be taken for something else.
const NUMBERS: [u64; 14] = [
    0,
    1,
    10,
    127,
    128,
    (1 << 14) - 1,
    1 << 21,
    (1 << 31) - 2,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 53) - 1,
    u64::MAX,
];
/// Kinds of structs and of their content, with and without neighbours and keys.
const INFOS: [u8; 20] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x84, 0x44, 0xc4, 0x24, 0x28, 0x27, 0xa7, 0x88];

/// Damages an update: once, or now and then several times. `other` is another update, parts of which may come in.
pub fn mutate(update: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = update.to_vec();
    let times = if random.random_bool(0.7) { 1 } else { random.random_range(2..6) };
    for _ in 0..times {
        once(&mut bytes, other, random);
    }
    bytes
}

fn once(bytes: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    if bytes.is_empty() {
        bytes.push(random.random());
        return;
    }
    let at = random.random_range(0..bytes.len());
    let end = random.random_range(at..=bytes.len().min(at + 20));
    match random.random_range(0..13) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.random(),
        2 => bytes[at] = bytes[at].wrapping_add(if random.random() { 1 } else { 255 }),
        3 => bytes.insert(at, random.random()),
        4 => {
            bytes.drain(at..end);
        }
        5 => bytes.truncate(at),
        6 => {
            bytes.splice(at..at, bytes[at..end].to_vec());
        }
        7 => {
            let part = part(other, random);
            bytes.splice(at..end, part);
        }
        8 => {
            let number = *NUMBERS.choose(random).expect("numbers");
            replace_number(bytes, at, number);
        }
        9 => {
            let near = number_at(bytes, at).0.wrapping_add_signed(random.random_range(-3..=3));
            replace_number(bytes, at, near);
        }
        10 => bytes[at] = *INFOS.choose(random).expect("kinds"),
        // A client's number, as anywhere in an update, for another: they are the longest.
        11 => {
            let (from, to) = (long_number(other, random), long_number(bytes, random));
            if let (Some((from, len)), Some((to, old))) = (from, to) {
                bytes.splice(to..to + old, other[from..from + len].to_vec());
            }
        }
        _ => {
            let len = random.random_range(1..8);
            let mut noise = vec![0; len];
            random.fill_bytes(&mut noise);
            bytes.splice(at..end, noise);
        }
    }
}

fn part(bytes: &[u8], random: &mut StdRng) -> Vec<u8> {
    let start = random.random_range(0..=bytes.len());
    bytes[start..random.random_range(start..=bytes.len())].to_vec()
}

/// The number that begins at some byte, and how many bytes it takes.
fn number_at(bytes: &[u8], at: usize) -> (u64, usize) {
    let len = bytes[at..].iter().take(9).take_while(|byte| **byte >= 0x80).count() + 1;
    let len = len.min(bytes.len() - at);
    let digits = bytes[at..at + len].iter().rev();
    (digits.fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f)), len)
}

fn replace_number(bytes: &mut Vec<u8>, at: usize, mut number: u64) {
    let (_, len) = number_at(bytes, at);
    let mut digits = Vec::new();
    while number >= 0x80 {
        digits.push(number as u8 | 0x80);
        number >>= 7;
    }
    digits.push(number as u8);
    bytes.splice(at..at + len, digits);
}

fn long_number(bytes: &[u8], random: &mut StdRng) -> Option<(usize, usize)> {
    let found: Vec<(usize, usize)> = (0..bytes.len())
        .filter(|at| *at == 0 || bytes[at - 1] < 0x80)
        .map(|at| (at, number_at(bytes, at).1))
        .filter(|(_, len)| *len >= 4)
        .collect();
    found.choose(random).copied()
}
