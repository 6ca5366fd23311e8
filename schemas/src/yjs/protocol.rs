//! The messages between an editor and a server, as y-websocket and y-protocols frame them.
//!
//! ```text
//! frame       messages, one after the other (a client reads just the first)
//! message     0 sync: 0 step 1, state vector | 1 step 2, update | 2 update, update
//!             1 awareness: update
//!             2 authentication: 0, reason
//!             3 what is everybody's awareness?
//! awareness   count, then for each  client, clock, state as JSON text (null: gone)
//! ```

use super::lib0::{Malformed, Reader, write_buffer, write_number};

/// What an editor sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// What it has, as a state vector: it wants the rest.
    Step1(&'a [u8]),
    /// What it has and the server has not, as an update.
    Step2(&'a [u8]),
    Update(&'a [u8]),
    Awareness(&'a [u8]),
    Authentication,
    QueryAwareness,
}

impl<'a> Message<'a> {
    /// The next message of a frame; `None` at its end.
    pub fn read(reader: &mut Reader<'a>) -> Result<Option<Self>, Malformed> {
        if reader.remaining() == 0 {
            return Ok(None);
        }
        let message = match reader.number()? {
            0 => match reader.number()? {
                0 => Self::Step1(reader.buffer()?),
                1 => Self::Step2(reader.buffer()?),
                2 => Self::Update(reader.buffer()?),
                _ => return Err(Malformed::Unknown("a sync message")),
            },
            1 => Self::Awareness(reader.buffer()?),
            2 => {
                reader.number()?;
                reader.text()?;
                Self::Authentication
            }
            3 => Self::QueryAwareness,
            _ => return Err(Malformed::Unknown("a message")),
        };
        Ok(Some(message))
    }
}

/// Frames with one message each.
pub fn step1(state_vector: &[u8]) -> Vec<u8> {
    frame(&[0, 0], state_vector)
}

pub fn step2(update: &[u8]) -> Vec<u8> {
    frame(&[0, 1], update)
}

pub fn update(update: &[u8]) -> Vec<u8> {
    frame(&[0, 2], update)
}

pub fn awareness(update: &[u8]) -> Vec<u8> {
    frame(&[1], update)
}

/// The reason is shown to the user.
pub fn permission_denied(reason: &str) -> Vec<u8> {
    frame(&[2, 0], reason.as_bytes())
}

fn frame(kind: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(kind.len() + body.len() + 5);
    bytes.extend_from_slice(kind);
    write_buffer(&mut bytes, body);
    bytes
}

/// What an editor shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown<'a> {
    pub client: u64,
    pub clock: u64,
    /// JSON.
    pub state: &'a str,
}

/// Reads all of an awareness update.
pub fn read_awareness(bytes: &[u8]) -> Result<Vec<Shown<'_>>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut shown = Vec::new();
    for _ in 0..reader.count()? {
        shown.push(Shown { client: reader.number()?, clock: reader.number()?, state: reader.text()? });
    }
    reader.end()?;
    Ok(shown)
}

/// Writes an awareness update.
pub fn write_awareness<'a>(shown: impl ExactSizeIterator<Item = Shown<'a>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_number(&mut bytes, shown.len() as u64);
    for Shown { client, clock, state } in shown {
        write_number(&mut bytes, client);
        write_number(&mut bytes, clock);
        write_buffer(&mut bytes, state.as_bytes());
    }
    bytes
}

/// Clients with the clocks of their next insertions. Source: Yjs, `decodeStateVector`.
pub fn read_state_vector(bytes: &[u8]) -> Result<Vec<(u64, u32)>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut clients = Vec::new();
    for _ in 0..reader.count()? {
        clients.push((reader.number()?, reader.clock()?));
    }
    reader.end()?;
    Ok(clients)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_read_message_by_message() {
        let bytes =
            [step1(b"sv"), update(b"u"), step2(b""), awareness(b"a"), permission_denied("no"), vec![3]].concat();
        let mut reader = Reader::new(&bytes);
        let mut found = Vec::new();
        while let Some(message) = Message::read(&mut reader).expect("messages") {
            found.push(message);
        }
        let expected = [
            Message::Step1(b"sv"),
            Message::Update(b"u"),
            Message::Step2(b""),
            Message::Awareness(b"a"),
            Message::Authentication,
            Message::QueryAwareness,
        ];
        assert_eq!(found, expected);
        assert!(Message::read(&mut Reader::new(&[0, 3, 0])).is_err());
        assert!(Message::read(&mut Reader::new(&[9])).is_err());
    }

    proptest! {
        #[test]
        fn awareness_comes_back(states in proptest::collection::vec((0..1_u64 << 40, 0..1_u64 << 40, ".{0,9}"), 0..5)) {
            let shown: Vec<Shown<'_>> =
                states.iter().map(|(client, clock, state)| Shown { client: *client, clock: *clock, state }).collect();
            let bytes = write_awareness(shown.iter().cloned());
            prop_assert_eq!(read_awareness(&bytes), Ok(shown));
            for cut in 0..bytes.len() {
                prop_assert!(read_awareness(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn whatever_is_read_is_no_panic(bytes in any::<Vec<u8>>()) {
            let _ = Message::read(&mut Reader::new(&bytes));
            let _ = read_awareness(&bytes);
            let _ = read_state_vector(&bytes);
        }
    }
}
