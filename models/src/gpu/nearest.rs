//! What `nearest_keys` and `nearest_top` give: keys whose order is that of (distance, row).

/// The distance in a key. Its lower half is the row.
pub fn distance_of(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}
