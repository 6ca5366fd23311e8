//! How far event time has come: not in one task alone, but in all of them, so that a window is closed only when nothing
//! that belongs to it can still be under way.
//!
//! Each task tells all tasks, through the repartition topic and after what it has sent there until then, two times:
//!
//! ```text
//! stream time   the latest event time that it has read: all events until then that belong elsewhere were passed on
//! users         the least stream time of all tasks, as far as it has heard: all until then was counted or gathered
//! ```
//!
//! So windows by user are closed by the watermark `users`, and windows of what was gathered by the least of the `users`
//! that the tasks have told (`gathered`).
//!
//! A task whose time does not advance for a while holds nothing up any more, nor does one that was never heard of. How long
//! is measured by when records of the repartition topic were written, so that a replay decides alike.
//!
//! INVARIANT: a watermark never goes back.
//!
//! Source: Akidau et al., "The Dataflow Model", VLDB 2015; Flink, "Dealing With Idle Sources".

use super::windows::Step;

/// No time yet.
const NONE: i64 = i64::MIN;

/// What one task knows of the event time of one source. Milliseconds since the epoch throughout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// What this task would tell now.
    own: Told,
    /// What it has told last.
    told: Told,
    gathered: i64,
    /// By task.
    heard: Vec<Heard>,
}

/// What a task tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub stream_time: i64,
    /// Its watermark of the windows by user.
    pub users: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    stream_time: Advance,
    users: Advance,
}

/// A time, and when it was last heard to have advanced; of a task that was never heard of, when the first other was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Advance {
    time: i64,
    when: i64,
}

/// Which task this is, of how many, and how long a silent one holds windows open.
#[derive(Debug, Clone, Copy)]
pub struct Tasks {
    pub own: usize,
    pub count: usize,
    pub idle_ms: i64,
}

impl Clock {
    pub fn new(tasks: Tasks) -> Self {
        let none = Told { stream_time: NONE, users: NONE };
        let never = Advance { time: NONE, when: NONE };
        let heard = vec![Heard { stream_time: never, users: never }; tasks.count];
        Self { own: none, told: none, gathered: NONE, heard }
    }

    /// Reads what `to_bytes` wrote; anything else is a clock that has not begun.
    ///
    /// ```text
    /// 0..40   own stream time and users, told stream time and users, gathered
    /// 40..    for each task: stream time, when; users, when
    /// ```
    ///
    /// All of them i64, big endian.
    pub fn from_bytes(bytes: &[u8], tasks: Tasks) -> Self {
        let mut clock = Self::new(tasks);
        let (numbers, _) = bytes.as_chunks::<8>();
        for (field, number) in clock.fields().into_iter().zip(numbers) {
            *field = i64::from_be_bytes(*number);
        }
        clock
    }

    /// Replaces what is in `bytes`.
    pub fn to_bytes(&mut self, bytes: &mut Vec<u8>) {
        bytes.clear();
        for field in self.fields() {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
    }

    fn fields(&mut self) -> Vec<&mut i64> {
        let Self { own, told, gathered, heard } = self;
        let mut fields = Vec::with_capacity(5 + 4 * heard.len());
        fields.extend([&mut own.stream_time, &mut own.users, &mut told.stream_time, &mut told.users, gathered]);
        for Heard { stream_time, users } in heard {
            fields.extend([&mut stream_time.time, &mut stream_time.when, &mut users.time, &mut users.when]);
        }
        fields
    }

    /// The latest event time that was read, without reading the rest.
    pub fn stream_time_of(bytes: &[u8]) -> Option<i64> {
        time_at(bytes, 0)
    }

    /// As `watermark`, without reading the rest.
    pub fn watermark_of(bytes: &[u8], step: Step) -> Option<i64> {
        match step {
            Step::Users => time_at(bytes, 8),
            Step::Gathered => time_at(bytes, 32),
        }
    }

    /// This task has read an event of that time.
    pub fn read(&mut self, tasks: Tasks, time: i64) {
        self.own.stream_time = self.own.stream_time.max(time);
        self.advance(tasks);
    }

    /// A task has told, in a record written at `when`, how far it is.
    pub fn hear(&mut self, tasks: Tasks, task: usize, told: Told, when: i64) {
        for advance in self.heard.iter_mut().flat_map(|heard| [&mut heard.stream_time, &mut heard.users]) {
            if advance.when == NONE {
                advance.when = when;
            }
        }
        if let Some(heard) = self.heard.get_mut(task) {
            heard.stream_time.to(told.stream_time, when);
            heard.users.to(told.users, when);
        }
        self.advance(tasks);
    }

    /// What is to be told now, if there is a time in it that is in another step than when it was told last.
    pub fn tell(&mut self, step_ms: i64) -> Option<Told> {
        let steps = |told: Told| (told.stream_time.div_euclid(step_ms), told.users.div_euclid(step_ms));
        if steps(self.own) == steps(self.told) {
            return None;
        }
        self.told = self.own;
        Some(self.own)
    }

    /// `None` while some task holds it up.
    pub fn watermark(&self, step: Step) -> Option<i64> {
        let watermark = match step {
            Step::Users => self.own.users,
            Step::Gathered => self.gathered,
        };
        (watermark != NONE).then_some(watermark)
    }

    fn advance(&mut self, tasks: Tasks) {
        let advances = self.heard.iter().flat_map(|heard| [heard.stream_time, heard.users]);
        let now = advances.map(|advance| advance.when).max().unwrap_or(NONE);
        let is_active = |advance: &Advance| now == NONE || now.saturating_sub(advance.when) <= tasks.idle_ms;
        let read = self.heard.iter().enumerate().filter(|(_, heard)| is_active(&heard.stream_time));
        // What this task has read itself, it need not be told.
        let read =
            read.map(|(task, heard)| if task == tasks.own { self.own.stream_time } else { heard.stream_time.time });
        let counted = self.heard.iter().filter(|heard| is_active(&heard.users)).map(|heard| heard.users.time);
        self.own.users = self.own.users.max(read.min().unwrap_or(NONE));
        self.gathered = self.gathered.max(counted.min().unwrap_or(NONE));
    }
}

fn time_at(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at..)?.first_chunk().map(|time| i64::from_be_bytes(*time)).filter(|time| *time != NONE)
}

impl Advance {
    fn to(&mut self, time: i64, when: i64) {
        if time > self.time {
            *self = Self { time, when: when.max(self.when) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_MS: i64 = 100;

    fn tasks(own: usize, count: usize) -> Tasks {
        Tasks { own, count, idle_ms: IDLE_MS }
    }

    fn told(stream_time: i64, users: i64) -> Told {
        Told { stream_time, users }
    }

    fn watermarks(clock: &Clock) -> (Option<i64>, Option<i64>) {
        (clock.watermark(Step::Users), clock.watermark(Step::Gathered))
    }

    #[test]
    fn one_task_alone_goes_by_what_it_reads_and_what_comes_back() {
        let me = tasks(0, 1);
        let mut clock = Clock::new(me);
        clock.read(me, 50);
        clock.read(me, 40);
        assert_eq!(watermarks(&clock), (Some(50), None));
        clock.hear(me, 0, told(50, 50), 1_000);
        assert_eq!(watermarks(&clock), (Some(50), Some(50)));
    }

    #[test]
    fn the_slowest_task_decides() {
        let me = tasks(0, 3);
        let mut clock = Clock::new(me);
        clock.read(me, 500);
        clock.hear(me, 0, told(500, NONE), 1_000);
        clock.hear(me, 1, told(300, NONE), 1_010);
        assert_eq!(watermarks(&clock), (None, None), "nothing was heard of task 2");
        clock.hear(me, 2, told(200, NONE), 1_020);
        assert_eq!(watermarks(&clock), (Some(200), None));
        for task in 0..3 {
            clock.hear(me, task, told(900, 200 + task as i64), 1_030);
        }
        assert_eq!(watermarks(&clock), (Some(500), Some(200)));
        clock.hear(me, 2, told(100, 100), 1_040);
        assert_eq!(watermarks(&clock), (Some(500), Some(200)), "they never go back");
    }

    #[test]
    fn a_silent_task_holds_nothing_up_after_a_while() {
        let me = tasks(1, 3);
        let mut clock = Clock::new(me);
        clock.hear(me, 0, told(700, NONE), 1_000);
        clock.read(me, 600);
        clock.hear(me, 1, told(600, NONE), 1_050);
        assert_eq!(watermarks(&clock), (None, None));
        clock.hear(me, 0, told(800, 600), 1_101);
        assert_eq!(watermarks(&clock), (Some(600), Some(600)));
        // Its own events have ended too. That it still tells how far the others are makes it no less silent.
        clock.hear(me, 1, told(600, 610), 1_190);
        clock.hear(me, 0, told(900, 620), 1_200);
        assert_eq!(watermarks(&clock), (Some(900), Some(610)));
    }

    #[test]
    fn a_clock_is_told_in_steps_and_comes_back_as_it_was() {
        let me = tasks(0, 2);
        let mut clock = Clock::new(me);
        assert_eq!(clock.tell(10), None);
        clock.read(me, 25);
        assert_eq!((clock.tell(10), clock.tell(10)), (Some(told(25, NONE)), None));
        clock.read(me, 29);
        assert_eq!(clock.tell(10), None);
        clock.hear(me, 1, told(7, NONE), 8);
        assert_eq!(clock.tell(10), Some(told(29, 7)));
        clock.hear(me, 0, told(29, 6), 9);
        clock.hear(me, 1, told(7, 5), 9);
        let mut bytes = Vec::new();
        clock.to_bytes(&mut bytes);
        let read = [Step::Users, Step::Gathered].map(|step| Clock::watermark_of(&bytes, step));
        assert_eq!((read[0], read[1]), watermarks(&clock));
        assert_eq!(read, [Some(7), Some(5)]);
        assert_eq!((Clock::from_bytes(&bytes, me), Clock::stream_time_of(&bytes)), (clock, Some(29)));
        assert_eq!((Clock::from_bytes(b"", me), Clock::stream_time_of(b"")), (Clock::new(me), None));
    }
}
