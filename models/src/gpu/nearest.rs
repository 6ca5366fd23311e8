//! The rows of a matrix that are most similar to queries, as `similarity` defines it; the matrix stays in the device's memory.
//!
//! The kernels give keys whose order is that of the ranks, sort them by runs and keep the least of each run, until there
//! is one run.

use std::sync::Arc;

use super::abi::{LengthsArgs, NEAREST_QUERIES, NearestArgs, SORT_KEYS, THREADS, TOP_THREADS, TopArgs};
use super::desk::{Desk, Held};
use super::device::{Asker, GpuDevice};
use super::driver::Launch;
use crate::device::DeviceError;
use crate::similarity::{LANES, Neighbor};

/// A matrix on a device.
pub struct Matrix {
    asker: Asker,
    /// None only while it is dropped.
    parts: Option<Arc<Parts>>,
    shape: Shape,
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    rows: usize,
    width: usize,
    k_max: usize,
}

struct Parts {
    matrix: Held,
    lengths: Held,
    queries: Held,
    /// Of all rows, then the least of runs, by turns.
    keys: [Held; 2],
}

impl Matrix {
    /// Uploads a matrix, row by row, of which up to `k_max` nearest rows will be asked for. Errors: its values are no whole rows,
    /// or it does not fit the device.
    pub fn new(device: &GpuDevice, values: &[f32], width: usize, k_max: usize) -> Result<Self, DeviceError> {
        let rows = values.len() / width.max(1);
        let is_sound = width > 0
            && rows * width == values.len()
            && (1..=u32::MAX as usize).contains(&rows)
            && (1..=SORT_KEYS / 2).contains(&k_max);
        if !is_sound {
            return Err(DeviceError::Unsupported(format!(
                "{} values in rows of {width}, {k_max} asked for",
                values.len()
            )));
        }
        let shape = Shape { rows, width, k_max };
        let asker = device.asker();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let parts = asker.run(move |desk| upload(desk, &bytes, shape))?;
        Ok(Self { asker, parts: Some(Arc::new(parts)), shape })
    }

    /// The `k` rows most similar to each query, as `Vectors::nearest` gives them; fewer if there are no more rows.
    pub fn nearest(&mut self, queries: &[f32], k: usize) -> Result<Vec<Vec<Neighbor>>, DeviceError> {
        let Shape { rows, width, k_max } = self.shape;
        if !queries.len().is_multiple_of(width) || !(1..=k_max).contains(&k) {
            return Err(DeviceError::Unsupported(format!(
                "{} values of queries, {k} of {k_max} nearest",
                queries.len()
            )));
        }
        let Some(parts) = &self.parts else { unreachable!("only dropping takes it") };
        let mut nearest = Vec::new();
        for chunk in queries.chunks(NEAREST_QUERIES * width) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_ne_bytes()).collect();
            let (parts, shape, count) = (Arc::clone(parts), self.shape, chunk.len() / width);
            let least = self.asker.run(move |desk| find(desk, &parts, shape, &bytes, count, k))?;
            nearest
                .extend(least.chunks_exact(k).map(|keys| keys.iter().take(rows).copied().map(neighbor_of).collect()));
        }
        Ok(nearest)
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        // A task that timed out has a share of it, and keeps the memory for ever.
        if let Some(parts) = self.parts.take().and_then(Arc::into_inner) {
            let [keys, least] = parts.keys;
            self.asker.free(vec![parts.matrix, parts.lengths, parts.queries, keys, least]);
        }
    }
}

fn runs_of(count: usize) -> usize {
    count.div_ceil(SORT_KEYS)
}

fn upload(desk: &mut Desk<'_>, matrix: &[u8], shape: Shape) -> Result<Parts, DeviceError> {
    let Shape { rows, width, k_max } = shape;
    let sizes = [
        matrix.len(),
        rows * 4,
        NEAREST_QUERIES * width * 4,
        NEAREST_QUERIES * rows.max(k_max * runs_of(rows)) * 8,
        NEAREST_QUERIES * k_max * runs_of(rows) * 8,
    ];
    let mut parts = Vec::new();
    for bytes in sizes {
        match desk.allocate(bytes) {
            Ok(held) => parts.push(held),
            Err(error) => {
                // SAFETY: nothing was begun with them.
                parts.into_iter().for_each(|held| unsafe { desk.free(held) });
                return Err(error);
            }
        }
    }
    let Ok([matrix_part, lengths, queries, keys, least]) = <[Held; 5]>::try_from(parts) else {
        unreachable!("five were allocated")
    };
    desk.write(&matrix_part, 0, matrix)?;
    let args = LengthsArgs {
        matrix: matrix_part.address(),
        lengths: lengths.address(),
        rows: rows as u32,
        width: width as u32,
    };
    // SAFETY: the matrix is there, and there is room for each row's length.
    unsafe { desk.launch(&launch_rows("nearest_lengths", rows), &args) }?;
    desk.wait()?;
    Ok(Parts { matrix: matrix_part, lengths, queries, keys: [keys, least] })
}

/// The keys of the `k` nearest of each query.
fn find(
    desk: &mut Desk<'_>,
    parts: &Parts,
    shape: Shape,
    queries: &[u8],
    queries_count: usize,
    k: usize,
) -> Result<Vec<u64>, DeviceError> {
    desk.write(&parts.queries, 0, queries)?;
    let args = NearestArgs {
        matrix: parts.matrix.address(),
        queries: parts.queries.address(),
        lengths: parts.lengths.address(),
        keys: parts.keys[0].address(),
        rows: shape.rows as u32,
        width: shape.width as u32,
        queries_count: queries_count as u32,
        row_first: 0,
    };
    // SAFETY: all parts were made for this shape and for as many queries.
    unsafe { desk.launch(&launch_rows("nearest_keys", shape.rows), &args) }?;
    let (mut count, mut from) = (shape.rows, 0);
    loop {
        let runs = runs_of(count);
        let args = TopArgs {
            keys: parts.keys[from].address(),
            least: parts.keys[1 - from].address(),
            count: count as u64,
            runs: runs as u32,
            k: k as u32,
            queries_count: queries_count as u32,
            unused: 0,
        };
        let grid = (runs as u32, queries_count as u32);
        let launch = Launch { kernel: "nearest_top", grid, threads: TOP_THREADS, shared: 0 };
        // SAFETY: both have room for the least of as many runs as there are at first, and then there are fewer.
        unsafe { desk.launch(&launch, &args) }?;
        (count, from) = (runs * k, 1 - from);
        if runs == 1 {
            break;
        }
    }
    let mut bytes = vec![0; queries_count * k * 8];
    desk.read(&parts.keys[from], &mut bytes)?;
    Ok(bytes.chunks_exact(8).map(|key| u64::from_ne_bytes(key.try_into().expect("8 bytes"))).collect())
}

/// Some threads have a row.
fn launch_rows(kernel: &'static str, rows: usize) -> Launch {
    Launch { kernel, grid: ((rows * LANES).div_ceil(THREADS as usize) as u32, 1), threads: THREADS, shared: 0 }
}

/// What `key_of` of the kernels made a key of.
pub fn neighbor_of(key: u64) -> Neighbor {
    let rank = (key >> 32) as u32;
    let bits = if rank >> 31 == 1 { rank } else { !rank & !(1 << 31) };
    Neighbor { row: key as u32 as usize, similarity: f32::from_bits(bits) }
}
