//! Which of two devices is faster for a batch, by its rows: a GPU's calls cost more and its rows less.
//!
//! Each device has a curve, of the times of a few batch sizes that are measured when a model is loaded. Between two of them a
//! time is a + b * rows, by the line through both. What live batches take moves the nearest points.
//!
//! INVARIANT: which device is chosen changes the time and nothing else: devices' margins are the same.

use std::time::Duration;

/// Of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Cpu,
    Gpu,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Share of a live time in a point that it falls on.
    pub weight: f64,
    /// Every so many batches one goes to the slower device, so that a curve is not kept for an old reason; 0 for none.
    pub explore_every: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 0.1, explore_every: 1024 }
    }
}

/// Times of one device, by rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Curve {
    /// Rows and seconds, rows ascending.
    points: Vec<(f64, f64)>,
}

/// Of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Chooser {
    settings: Settings,
    cpu: Curve,
    gpu: Curve,
    batches: u64,
}

impl Curve {
    /// Of what was measured, in any order.
    pub fn new(times: &[(usize, Duration)]) -> Self {
        let mut points: Vec<_> = times.iter().map(|(rows, time)| (*rows as f64, time.as_secs_f64())).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup_by(|a, b| a.0 == b.0);
        Self { points }
    }

    /// Seconds that a batch is expected to take; none if nothing was measured. Beyond the points their outermost lines go on.
    pub fn seconds(&self, rows: usize) -> Option<f64> {
        let rows = rows as f64;
        let (low, high) = match self.points.as_slice() {
            [] => return None,
            [(of, seconds)] => return Some(seconds * (rows / of.max(1.0)).max(1.0)),
            points => {
                let high = points.partition_point(|(of, _)| *of < rows).clamp(1, points.len() - 1);
                (points[high - 1], points[high])
            }
        };
        // Noise can make a larger batch the faster one; beyond the points that must not come to nothing.
        let slope = (high.1 - low.1) / (high.0 - low.0);
        let slope = if rows > high.0 { slope.max(0.0) } else { slope };
        Some((low.1 + slope * (rows - low.0)).max(0.0))
    }

    /// Moves the points beside a live time: each by its share of the place between them.
    fn observe(&mut self, rows: usize, seconds: f64, weight: f64) {
        let Some(expected) = self.seconds(rows).filter(|expected| *expected > 0.0 && seconds.is_finite()) else {
            return;
        };
        // One hiccup must not decide for a long time.
        let ratio = (seconds / expected).clamp(0.125, 8.0);
        let rows = rows as f64;
        let high = self.points.partition_point(|(of, _)| *of < rows).clamp(1, self.points.len().max(2) - 1);
        let share = match (self.points.get(high - 1), self.points.get(high)) {
            (Some(low), Some(high)) => ((rows - low.0) / (high.0 - low.0)).clamp(0.0, 1.0),
            _ => 0.0,
        };
        for (at, share) in [(high - 1, 1.0 - share), (high, share)] {
            if let Some((_, time)) = self.points.get_mut(at) {
                *time *= 1.0 + weight * share * (ratio - 1.0);
            }
        }
    }
}

impl Chooser {
    /// Where a device could not be measured its curve is empty, and the other is chosen.
    pub fn new(settings: Settings, cpu: Curve, gpu: Curve) -> Self {
        Self { settings, cpu, gpu, batches: 0 }
    }

    /// For the next batch.
    pub fn choose(&mut self, rows: usize) -> Place {
        self.batches += 1;
        let faster = self.faster(rows);
        let explores = self.settings.explore_every != 0
            && self.batches.is_multiple_of(self.settings.explore_every)
            && !self.gpu.points.is_empty();
        match faster {
            Place::Cpu if explores => Place::Gpu,
            Place::Gpu if explores => Place::Cpu,
            faster => faster,
        }
    }

    /// Whether nothing is known of the GPU's times.
    pub fn is_gpu_unmeasured(&self) -> bool {
        self.gpu.points.is_empty()
    }

    /// The CPU, of equals.
    pub fn faster(&self, rows: usize) -> Place {
        match (self.cpu.seconds(rows), self.gpu.seconds(rows)) {
            (Some(cpu), Some(gpu)) if gpu < cpu => Place::Gpu,
            _ => Place::Cpu,
        }
    }

    /// What a batch took.
    pub fn observe(&mut self, place: Place, rows: usize, time: Duration) {
        let curve = match place {
            Place::Cpu => &mut self.cpu,
            Place::Gpu => &mut self.gpu,
        };
        curve.observe(rows, time.as_secs_f64(), self.settings.weight);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// A CPU with 1 us a row, a GPU with 100 us and 0.01 us a row: they are equal at about 101 rows.
    fn chooser(explore_every: u64) -> Chooser {
        let cpu = Curve::new(&[(1, micros(1)), (1000, micros(1000)), (100_000, micros(100_000))]);
        let gpu = Curve::new(&[(100_000, micros(1100)), (1, micros(100)), (1000, micros(110))]);
        Chooser::new(Settings { weight: 0.2, explore_every }, cpu, gpu)
    }

    #[test]
    fn the_faster_is_chosen_between_and_beyond_what_was_measured() {
        let mut chooser = chooser(0);
        let cases = [(0, Place::Cpu), (1, Place::Cpu), (95, Place::Cpu), (110, Place::Gpu), (500_000, Place::Gpu)];
        for (rows, place) in cases {
            assert_eq!(chooser.choose(rows), place, "{rows} rows");
        }
    }

    #[test]
    fn what_was_not_measured_is_not_chosen() {
        let measured = Curve::new(&[(10, micros(10))]);
        let mut chooser = Chooser::new(Settings { weight: 0.1, explore_every: 1 }, measured, Curve::default());
        assert_eq!(chooser.choose(1_000_000), Place::Cpu);
    }

    #[test]
    fn live_times_move_the_choice_both_ways() {
        let mut chooser = chooser(0);
        (0..100).for_each(|_| chooser.observe(Place::Gpu, 1000, micros(5000)));
        assert_eq!(chooser.faster(1000), Place::Cpu, "the GPU has become slow");
        assert_eq!(chooser.faster(100_000), Place::Gpu, "of other sizes nothing was heard");
        (0..100).for_each(|_| chooser.observe(Place::Gpu, 1000, micros(110)));
        assert_eq!(chooser.faster(1000), Place::Gpu);
    }

    #[test]
    fn one_hiccup_is_not_enough() {
        let mut chooser = chooser(0);
        chooser.observe(Place::Gpu, 1000, Duration::from_secs(100));
        assert_eq!(chooser.faster(1000), Place::Gpu);
    }

    #[test]
    fn the_slower_is_tried_now_and_then() {
        let mut chooser = chooser(10);
        let places: Vec<_> = (0..20).map(|_| chooser.choose(100_000)).collect();
        assert_eq!(places.iter().filter(|place| **place == Place::Cpu).count(), 2);
        assert_eq!(places[9], Place::Cpu);
    }

    proptest! {
        #[test]
        fn times_are_sound_whatever_is_measured(
            times in prop::collection::vec((0_usize..100_000, 0_u64..1_000_000), 0..6),
            live in prop::collection::vec((0_usize..200_000, 0_u64..10_000_000), 0..20),
        ) {
            let times: Vec<_> = times.into_iter().map(|(rows, time)| (rows, micros(time))).collect();
            let mut curve = Curve::new(&times);
            for (rows, time) in live {
                curve.observe(rows, micros(time).as_secs_f64(), 0.5);
                let seconds = curve.seconds(rows);
                prop_assert_eq!(seconds.is_none(), times.is_empty());
                prop_assert!(seconds.is_none_or(|seconds| seconds >= 0.0 && seconds.is_finite()));
            }
        }
    }
}
