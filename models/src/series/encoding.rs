//! A state's bytes, for a key-value store. Little-endian.
//!
//! ```text
//! version: u8 = 1 | detector: u8 | settings: u32 | time of the last value, ms: i64 | the detector's own | check: u32
//! numbers of a window: width: u8 (4: each is an f32 as well; 8) | count: u16 | count times width
//! ```
//!
//! INVARIANT: bytes that are read fit the detector that reads them: `settings` is a hash of all that the state's meaning
//! depends on, and what a step relies on (lengths, finite numbers) is checked. `check` is FNV-1a of all before it, which no
//! change of one byte leaves as it is.

use crate::series::error::SeriesError;

/// The version that is written.
pub const VERSION: u8 = 1;

/// FNV-1a (Fowler, Noll, Vo; draft-eastlake-fnv).
pub(crate) fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Appends.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(detector: u8, settings: u32, time_ms: i64) -> Self {
        let mut bytes = vec![VERSION, detector];
        bytes.extend(settings.to_le_bytes());
        bytes.extend(time_ms.to_le_bytes());
        Self(bytes)
    }

    pub(crate) fn float(&mut self, value: f64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn count(&mut self, count: u64) {
        self.0.extend(count.to_le_bytes());
    }

    /// At most 65,535 of them.
    pub(crate) fn numbers(&mut self, numbers: impl ExactSizeIterator<Item = f64> + Clone) {
        let is_narrow = numbers.clone().all(|number| f64::from(number as f32).to_bits() == number.to_bits());
        self.0.push(if is_narrow { 4 } else { 8 });
        self.0.extend(u16::try_from(numbers.len()).expect("settings bound a window").to_le_bytes());
        for number in numbers {
            if is_narrow { self.0.extend((number as f32).to_le_bytes()) } else { self.float(number) }
        }
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let check = hash(&self.0);
        self.0.extend(check.to_le_bytes());
        self.0
    }
}

/// Takes from the front.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Errors: the bytes are no state, or not one of that detector with those settings. Gives the time of the last value, too.
    pub(crate) fn new(bytes: &'a [u8], detector: u8, settings: u32) -> Result<(Self, i64), SeriesError> {
        let (body, check) = bytes.split_last_chunk::<4>().ok_or(SeriesError::Damaged("it is too short"))?;
        let version = *body.first().ok_or(SeriesError::Damaged("it is too short"))?;
        if hash(body) != u32::from_le_bytes(*check) {
            return Err(SeriesError::Damaged("its bytes are not those that were written"));
        }
        // After the check: a damaged version is no version.
        if version != VERSION {
            return Err(SeriesError::Version(version));
        }
        let mut reader = Self(&body[1..]);
        let [written_by] = reader.take()?;
        let written_with = u32::from_le_bytes(reader.take()?);
        if (written_by, written_with) != (detector, settings) {
            return Err(SeriesError::OtherDetector);
        }
        let time_ms = i64::from_le_bytes(reader.take()?);
        Ok((reader, time_ms))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], SeriesError> {
        let (taken, left) = self.0.split_first_chunk().ok_or(SeriesError::Damaged("it is too short"))?;
        self.0 = left;
        Ok(*taken)
    }

    pub(crate) fn float(&mut self) -> Result<f64, SeriesError> {
        let value = f64::from_le_bytes(self.take()?);
        if value.is_finite() { Ok(value) } else { Err(SeriesError::Damaged("a number that is not finite")) }
    }

    pub(crate) fn count(&mut self) -> Result<u64, SeriesError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// At most `count_max` of them.
    pub(crate) fn numbers(&mut self, count_max: usize) -> Result<Vec<f64>, SeriesError> {
        let [width] = self.take()?;
        let count = usize::from(u16::from_le_bytes(self.take()?));
        if count > count_max {
            return Err(SeriesError::Damaged("more values than the window has"));
        }
        let read = |_| match width {
            4 => Ok(f64::from(f32::from_le_bytes(self.take()?))),
            8 => Ok(f64::from_le_bytes(self.take()?)),
            _ => Err(SeriesError::Damaged("numbers of an unknown width")),
        };
        let numbers = (0..count).map(read).collect::<Result<Vec<f64>, _>>()?;
        if numbers.iter().all(|number| number.is_finite()) {
            Ok(numbers)
        } else {
            Err(SeriesError::Damaged("a number that is not finite"))
        }
    }

    pub(crate) fn finish(self) -> Result<(), SeriesError> {
        if self.0.is_empty() { Ok(()) } else { Err(SeriesError::Damaged("it is too long")) }
    }
}
