//! Frames on their way to one editor. Whoever takes them more slowly than they come is cut off, and gets all when it comes
//! back: nobody waits for the slowest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Frames that may wait.
const FRAMES_MAX: usize = 1_024;
/// Bytes of them.
const BYTES_MAX: usize = 16 << 20;

/// Where frames for an editor are put.
#[derive(Clone)]
pub struct Outbox {
    frames: Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
    overrun: Arc<Notify>,
}

/// Where they are taken from.
pub struct Outgoing {
    frames: Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
    overrun: Arc<Notify>,
}

pub fn outbox() -> (Outbox, Outgoing) {
    let (sender, receiver) = mpsc::channel(FRAMES_MAX);
    let (waiting, overrun) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
    let outgoing = Outgoing { frames: receiver, waiting: Arc::clone(&waiting), overrun: Arc::clone(&overrun) };
    (Outbox { frames: sender, waiting, overrun }, outgoing)
}

impl Outbox {
    pub fn put(&self, frame: Bytes) {
        let len = frame.len();
        // A frame that is larger than all that may wait still goes out, alone.
        let before = self.waiting.fetch_add(len, Ordering::Relaxed);
        if before > 0 && before + len > BYTES_MAX || self.frames.try_send(frame).is_err() {
            self.overrun.notify_one();
        }
    }
}

impl Outgoing {
    /// The next frame; `None` once its reader is too slow.
    pub async fn next(&mut self) -> Option<Bytes> {
        let frame = tokio::select! {
            biased;
            () = self.overrun.notified() => return None,
            frame = self.frames.recv() => frame?,
        };
        self.waiting.fetch_sub(frame.len(), Ordering::Relaxed);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn frames_come_in_order_until_too_many_wait() {
        let (outbox, mut outgoing) = outbox();
        for number in 0..FRAMES_MAX {
            outbox.put(Bytes::from(number.to_string()));
        }
        run(async {
            for number in 0..FRAMES_MAX {
                assert_eq!(outgoing.next().await, Some(Bytes::from(number.to_string())));
            }
        });
        for _ in 0..=FRAMES_MAX {
            outbox.put(Bytes::from_static(b"x"));
        }
        assert_eq!(run(outgoing.next()), None);
    }

    #[test]
    fn bytes_that_wait_are_bounded() {
        let (outbox, mut outgoing) = outbox();
        outbox.put(Bytes::from(vec![0; BYTES_MAX + 1]));
        assert_eq!(run(outgoing.next()).map(|frame| frame.len()), Some(BYTES_MAX + 1));
        outbox.put(Bytes::from(vec![0; BYTES_MAX]));
        outbox.put(Bytes::from_static(b"x"));
        assert_eq!(run(outgoing.next()), None);
    }
}
