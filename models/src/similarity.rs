//! The rows of a matrix that point most nearly where a query does: cosine similarity, as embeddings are searched.
//!
//! INVARIANT: every device gives the same similarities, bit for bit. `dot` fixes in which order products are added: 16 partial
//! sums, which a vector unit or a group of GPU threads can keep side by side, and a tree over them.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use thiserror::Error;

/// Partial sums of a dot product.
pub const LANES: usize = 16;

/// Vectors of f32, row by row, with the lengths that every query needs.
#[derive(Debug, Clone, Copy)]
pub struct Vectors<'a> {
    dimensions: usize,
    values: &'a [f32],
    lengths: &'a [f32],
}

/// A row and its similarity to the query: -1 to 1, save for rounding; 0 where either vector has no direction, which is one of
/// length 0 or of a length that is not finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbor {
    pub row: usize,
    pub similarity: f32,
}

/// Why vectors cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SimilarityError {
    #[error("{values} values are no rows of {dimensions} with {lengths} lengths")]
    Shape { values: usize, dimensions: usize, lengths: usize },
    #[error("a query of {query} dimensions for vectors of {dimensions}")]
    Dimensions { query: usize, dimensions: usize },
}

/// The Euclidean length of each row of a matrix, for `Vectors::new`; what is left over after the last row has none.
pub fn lengths(values: &[f32], dimensions: usize) -> Vec<f32> {
    values.chunks_exact(dimensions.max(1)).map(|row| dot(row, row).sqrt()).collect()
}

impl<'a> Vectors<'a> {
    /// `lengths` are those that the function of that name gives, kept for as long as the matrix stays as it is.
    pub fn new(values: &'a [f32], dimensions: usize, lengths: &'a [f32]) -> Result<Self, SimilarityError> {
        if dimensions == 0 || lengths.len().checked_mul(dimensions) != Some(values.len()) {
            return Err(SimilarityError::Shape { values: values.len(), dimensions, lengths: lengths.len() });
        }
        Ok(Self { dimensions, values, lengths })
    }

    /// The `count` rows most similar to the query, the most similar first and of equals the lower row.
    pub fn nearest(&self, query: &[f32], count: usize) -> Result<Vec<Neighbor>, SimilarityError> {
        let length = self.query_length(query)?;
        // The worst that was kept is on top.
        let mut kept: BinaryHeap<Ranked> = BinaryHeap::with_capacity(count.min(self.lengths.len()));
        for (row, (values, row_length)) in self.rows().enumerate() {
            let ranked = Ranked(Neighbor { row, similarity: cosine(dot(query, values), length, row_length) });
            if kept.len() < count {
                kept.push(ranked);
            } else if let Some(mut worst) = kept.peek_mut()
                && ranked < *worst
            {
                *worst = ranked;
            }
        }
        Ok(kept.into_sorted_vec().into_iter().map(|Ranked(neighbor)| neighbor).collect())
    }

    /// `nearest`, written down as plainly as it can be: the definition that it and every device are compared with.
    pub fn nearest_reference(&self, query: &[f32], count: usize) -> Result<Vec<Neighbor>, SimilarityError> {
        self.query_length(query)?;
        let length = dot_reference(query, query).sqrt();
        let similarity =
            |values: &[f32]| cosine(dot_reference(query, values), length, dot_reference(values, values).sqrt());
        let of_row = |(row, (values, _))| Neighbor { row, similarity: similarity(values) };
        let mut neighbors: Vec<Neighbor> = self.rows().enumerate().map(of_row).collect();
        neighbors.sort_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.row.cmp(&b.row)));
        neighbors.truncate(count);
        Ok(neighbors)
    }

    fn query_length(&self, query: &[f32]) -> Result<f32, SimilarityError> {
        if query.len() != self.dimensions {
            return Err(SimilarityError::Dimensions { query: query.len(), dimensions: self.dimensions });
        }
        Ok(dot(query, query).sqrt())
    }

    fn rows(&self) -> impl Iterator<Item = (&'a [f32], f32)> {
        self.values.chunks_exact(self.dimensions).zip(self.lengths.iter().copied())
    }
}

/// What is no number is 0, and so is -0, that ranks need no more than `<`.
fn cosine(dot: f32, length: f32, row_length: f32) -> f32 {
    let similarity = dot / (length * row_length);
    if similarity.is_nan() { 0.0 } else { similarity + 0.0 }
}

/// The sum of the products of two vectors: product i is added to partial sum i mod 16, and these are added by halves, the upper
/// half to the lower one. No multiplication is fused with an addition.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a * b;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

fn dot_reference(a: &[f32], b: &[f32]) -> f32 {
    let lane = |lane: usize| {
        let products = a.iter().zip(b).skip(lane).step_by(LANES).map(|(a, b)| a * b);
        products.fold(0.0, |sum, product| sum + product)
    };
    let mut sums: Vec<f32> = (0..LANES).map(lane).collect();
    while sums.len() > 1 {
        let upper = sums.split_off(sums.len() / 2);
        sums.iter_mut().zip(upper).for_each(|(sum, upper)| *sum += upper);
    }
    sums[0]
}

/// Ordered by rank: the most similar is the least.
struct Ranked(Neighbor);

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.similarity.total_cmp(&self.0.similarity).then(self.0.row.cmp(&other.0.row))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{SimilarityError, Vectors, lengths};

    fn nearest(values: &[f32], dimensions: usize, query: &[f32], count: usize) -> Vec<(usize, u32)> {
        let lengths = lengths(values, dimensions);
        let vectors = Vectors::new(values, dimensions, &lengths).unwrap();
        let bits = |neighbors: Vec<super::Neighbor>| -> Vec<(usize, u32)> {
            neighbors.into_iter().map(|neighbor| (neighbor.row, neighbor.similarity.to_bits())).collect()
        };
        let fast = bits(vectors.nearest(query, count).unwrap());
        assert_eq!(fast, bits(vectors.nearest_reference(query, count).unwrap()));
        fast
    }

    proptest! {
        #[test]
        fn the_fast_way_is_the_plain_one(
            dimensions in 1_usize..70,
            count in 0_usize..12,
            rows in prop::collection::vec(prop::collection::vec(
                prop_oneof![8 => -1e3_f32..1e3, 1 => Just(0.0), 1 => any::<f32>()], 70), 0..20),
            query in prop::collection::vec(prop_oneof![9 => -1.0_f32..1.0, 1 => any::<f32>()], 70),
        ) {
            let values: Vec<f32> = rows.iter().flat_map(|row| &row[..dimensions]).copied().collect();
            let found = nearest(&values, dimensions, &query[..dimensions], count);
            prop_assert_eq!(found.len(), count.min(rows.len()));
        }
    }

    #[test]
    fn equals_are_ranked_by_row() {
        let one = 1.0_f32.to_bits();
        let values = [0.0, 1.0, 2.0, 0.0, 1.0, 0.0, 4.0, 0.0];
        assert_eq!(nearest(&values, 2, &[3.0, 0.0], 2), [(1, one), (2, one)]);
    }

    #[test]
    fn vectors_without_a_direction_are_similar_to_none() {
        let values = [-1.0, 0.0, 0.0, 0.0, f32::NAN, 1.0, f32::INFINITY, 1.0, 1e30, 0.0];
        let (zero, minus_one) = (0, (-1.0_f32).to_bits());
        assert_eq!(nearest(&values, 2, &[1.0, 0.0], 9), [(1, zero), (2, zero), (3, zero), (4, zero), (0, minus_one)]);
        assert_eq!(nearest(&values[..4], 2, &[0.0, 0.0], 9), [(0, zero), (1, zero)]);
    }

    #[test]
    fn shapes_must_fit() {
        let lengths = lengths(&[1.0; 6], 3);
        assert!(Vectors::new(&[1.0; 5], 3, &lengths).is_err());
        assert!(Vectors::new(&[], 0, &[]).is_err());
        let error = Vectors::new(&[1.0; 6], 3, &lengths).unwrap().nearest(&[1.0; 2], 1).unwrap_err();
        assert_eq!(error, SimilarityError::Dimensions { query: 2, dimensions: 3 });
    }
}
