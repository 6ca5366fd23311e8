//! How many of some sorted thresholds are at or below a value: a search of a tree of 16 children a node, laid out by levels.
//!
//! ```text
//! levels[last]      the thresholds, and NaN, which is below nothing, up to a power of 16, one at least
//! levels[last - 1]  each 16th of them; and so on, up to a level of 16
//! ```
//!
//! A node is compared as a whole, and what is at or below the value is counted. No branch depends on the value: of a binary
//! search, the mispredicted ones cost more than all trees of a small forest.

const WIDTH: usize = 16;

pub(super) struct Search {
    levels: Vec<Vec<[f32; WIDTH]>>,
}

impl Search {
    /// Of sorted thresholds.
    pub fn new(thresholds: &[f32]) -> Self {
        let mut size = WIDTH;
        while size <= thresholds.len() {
            size *= WIDTH;
        }
        let mut level = thresholds.to_vec();
        let mut levels = Vec::new();
        while size >= WIDTH {
            level.resize(size, f32::NAN);
            levels.push(level.as_chunks().0.to_vec());
            level = level.iter().skip(WIDTH - 1).step_by(WIDTH).copied().collect();
            size /= WIDTH;
        }
        levels.reverse();
        Self { levels }
    }

    /// The rank of each value; of NaN, 0.
    pub fn ranks(&self, values: &[f32], ranks: &mut [u32]) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") {
                // SAFETY: the processor has it.
                return unsafe { x86::ranks_avx2(&self.levels, values, ranks) };
            }
        }
        climb(&self.levels, values, ranks, |node, value| node.iter().map(|at| usize::from(*at <= value)).sum());
    }
}

/// `count` tells how many of a node are at or below a value: never all, since a node is entered only if its last is above.
#[inline(always)]
fn climb(levels: &[Vec<[f32; WIDTH]>], values: &[f32], ranks: &mut [u32], count: impl Fn(&[f32; WIDTH], f32) -> usize) {
    for (value, rank) in values.iter().zip(ranks) {
        let mut at = 0_usize;
        for level in levels {
            at = at.wrapping_mul(WIDTH).wrapping_add(count(&level[at], *value));
        }
        *rank = at as u32;
    }
}

/// The compiler makes no mask of a comparison by itself.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{_CMP_LE_OQ, _mm256_cmp_ps, _mm256_loadu_ps, _mm256_movemask_ps, _mm256_set1_ps};

    use super::{WIDTH, climb};

    #[target_feature(enable = "avx2,bmi1")]
    pub fn ranks_avx2(levels: &[Vec<[f32; WIDTH]>], values: &[f32], ranks: &mut [u32]) {
        climb(levels, values, ranks, |node, value| {
            let value = _mm256_set1_ps(value);
            // SAFETY: a node is as many values as are loaded by both.
            let (low, high) = unsafe { (_mm256_loadu_ps(node.as_ptr()), _mm256_loadu_ps(node.as_ptr().add(8))) };
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(low, value));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(high, value));
            (low | high << 8).trailing_ones() as usize
        });
    }
}
