//! A model as it lies in a device's memory: one block, made on the host and copied as it is.

/// Bytes, in sections that start at multiples of `ALIGNMENT`. Sections are known by their offset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    bytes: Vec<u8>,
}

/// Of a section: a GPU's widest load is of 16 bytes, its cache lines have 128.
const ALIGNMENT: usize = 128;

impl Image {
    /// Adds a section and returns its offset.
    pub fn push<const N: usize, T: Copy>(&mut self, values: &[T], bytes_of: impl Fn(T) -> [u8; N]) -> usize {
        let offset = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(offset, 0);
        self.bytes.reserve(values.len() * N);
        values.iter().for_each(|value| self.bytes.extend(bytes_of(*value)));
        offset
    }

    pub fn push_u32(&mut self, values: &[u32]) -> usize {
        self.push(values, u32::to_ne_bytes)
    }

    pub fn push_f32(&mut self, values: &[f32]) -> usize {
        self.push(values, f32::to_ne_bytes)
    }

    pub fn push_f64(&mut self, values: &[f64]) -> usize {
        self.push(values, f64::to_ne_bytes)
    }

    /// In the forest's precision.
    pub fn push_sums(&mut self, values: &[f64], is_double: bool) -> usize {
        if is_double { self.push_f64(values) } else { self.push(values, |value| (value as f32).to_ne_bytes()) }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
