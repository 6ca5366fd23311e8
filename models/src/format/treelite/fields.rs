//! The fields of a checkpoint, one after the other.

use super::malformed;
use crate::error::ModelError;
use crate::format::bytes::Bytes;

/// What is not yet read of a checkpoint.
pub struct Fields<'a> {
    bytes: Bytes<'a>,
}

/// A number as the file has it.
pub trait Number: Copy {
    type Bytes: for<'a> TryFrom<&'a [u8]>;
    const SIZE: usize = size_of::<Self::Bytes>();
    fn of(bytes: Self::Bytes) -> Self;
}

macro_rules! number {
    ($($number:ty)*) => {
        $(impl Number for $number {
            type Bytes = [u8; size_of::<$number>()];
            fn of(bytes: Self::Bytes) -> Self {
                Self::from_le_bytes(bytes)
            }
        })*
    };
}

number!(u8 i8 i32 u32 u64 f32 f64);

impl<'a> Fields<'a> {
    pub fn new(file: &'a [u8]) -> Self {
        Self { bytes: Bytes::new(file) }
    }

    pub fn is_at_end(&self) -> bool {
        self.bytes.is_at_end()
    }

    pub fn scalar<T: Number>(&mut self) -> Result<T, ModelError> {
        let bytes = self.take(T::SIZE as u64)?;
        T::Bytes::try_from(bytes).map(T::of).map_err(|_| self.cut_short())
    }

    pub fn array<T: Number>(&mut self) -> Result<Vec<T>, ModelError> {
        let count: u64 = self.scalar()?;
        let size = count.checked_mul(T::SIZE as u64).ok_or_else(|| self.cut_short())?;
        let chunks = self.take(size)?.chunks_exact(T::SIZE);
        Ok(chunks.filter_map(|chunk| T::Bytes::try_from(chunk).ok()).map(T::of).collect())
    }

    pub fn text(&mut self) -> Result<&'a str, ModelError> {
        let length = self.scalar()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| malformed("a text of it is not UTF-8"))
    }

    /// Fields of a later version.
    pub fn skip_optional(&mut self) -> Result<(), ModelError> {
        let count: i32 = self.scalar()?;
        for _ in 0..count {
            let size = u16::from_le_bytes([self.scalar()?, self.scalar()?]);
            let count: u64 = self.scalar()?;
            let bytes = count.checked_mul(u64::from(size)).ok_or_else(|| self.cut_short())?;
            self.take(bytes)?;
        }
        Ok(())
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], ModelError> {
        self.bytes.take(count).ok_or_else(|| self.cut_short())
    }

    fn cut_short(&self) -> ModelError {
        malformed(format!("it is cut short at byte {}", self.bytes.position()))
    }
}
