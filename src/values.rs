//! Values of the command line and the configuration: moments, places and durations.

use std::fmt;
use std::str::FromStr;

pub use engram_models::features::duration_ms;
use jiff::Timestamp;

/// Where to begin or to stop in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Beginning,
    End,
    Offset(i64),
    /// Milliseconds since the epoch, UTC.
    Time(i64),
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => return Ok(Self::Beginning),
            "end" => return Ok(Self::End),
            _ => {}
        }
        if let Ok(offset) = text.parse::<i64>() {
            return if offset >= 0 { Ok(Self::Offset(offset)) } else { Err("an offset is not negative".to_owned()) };
        }
        Timestamp::from_str(text)
            .map(|time| Self::Time(time.as_millisecond()))
            .map_err(|_| "expected beginning, end, an offset, or a time such as 2026-01-31T12:00:00Z".to_owned())
    }
}

/// The place of a dead letter: partition and offset of the topic `dead-letters`, written PARTITION:OFFSET.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub partition: i32,
    pub offset: i64,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (partition, offset) = text.split_once(':')?;
            let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
            (partition >= 0 && offset >= 0).then_some(Self { partition, offset })
        };
        read()
            .ok_or_else(|| "expected PARTITION:OFFSET such as 0:17, as 'engram dead-letters list' shows it".to_owned())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

/// A moment of a service's past: TIME is what was committed by then, PARTITION:OFFSET right after that record of the service's
/// first input was taken, TOPIC/PARTITION/OFFSET right after that of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Milliseconds since the epoch, UTC.
    Time(i64),
    Record {
        /// `None`: the service's first input.
        topic: Option<String>,
        place: Place,
    },
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let record = |topic: Option<&str>, place: &str| {
            let place = Place::from_str(place).ok()?;
            Some(Self::Record { topic: topic.map(str::to_owned), place })
        };
        let named = || {
            let (rest, offset) = text.rsplit_once('/')?;
            let (topic, partition) = rest.rsplit_once('/')?;
            (!topic.is_empty()).then(|| record(Some(topic), &format!("{partition}:{offset}"))).flatten()
        };
        if let Some(found) = record(None, text).or_else(named) {
            return Ok(found);
        }
        Timestamp::from_str(text).map(|time| Self::Time(time.as_millisecond())).map_err(|_| {
            "expected a time such as 2026-01-31T12:00:00Z, PARTITION:OFFSET or TOPIC/PARTITION/OFFSET of an input"
                .to_owned()
        })
    }
}

/// How many outputs may differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Allow {
    Count(u64),
    /// Of the base's outputs.
    Percent(f64),
}

impl Allow {
    pub fn allows(self, differences: u64, of: u64) -> bool {
        match self {
            Self::Count(count) => differences <= count,
            Self::Percent(percent) => differences as f64 * 100.0 <= percent * of as f64,
        }
    }
}

impl FromStr for Allow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text.strip_suffix('%').map(str::parse::<f64>);
        match percent {
            Some(Ok(percent)) if (0.0..=100.0).contains(&percent) => Ok(Self::Percent(percent)),
            None => text.parse().map(Self::Count).map_err(|_| ()),
            _ => Err(()),
        }
        .map_err(|()| "expected a number of outputs, or a part of them such as 0.1%".to_owned())
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// A time as RFC 3339, UTC; as a number where the calendar ends.
pub fn rfc3339(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_words_offsets_or_times() {
        assert_eq!("beginning".parse(), Ok(Start::Beginning));
        assert_eq!("42".parse(), Ok(Start::Offset(42)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Start::Time(1_000)));
        assert!("-1".parse::<Start>().is_err());
        assert!("yesterday".parse::<Start>().is_err());
    }

    #[test]
    fn places_are_a_partition_and_an_offset() {
        assert_eq!("3:17".parse(), Ok(Place { partition: 3, offset: 17 }));
        assert_eq!("3:17".parse::<Place>().map(|place| place.to_string()), Ok("3:17".to_owned()));
        for wrong in ["", "3", "3:", ":17", "3:x", "-1:0", "0:-1", "99999999999:1", "3:17:1"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_are_times_or_records() {
        let record = |topic: Option<&str>| When::Record {
            topic: topic.map(str::to_owned),
            place: Place { partition: 3, offset: 17 },
        };
        assert_eq!("3:17".parse(), Ok(record(None)));
        assert_eq!("activity.events/3/17".parse(), Ok(record(Some("activity.events"))));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(When::Time(1_000)));
        for wrong in ["", "17", "/3/17", "a/3", "a/x/17", "now", "3:-1"] {
            assert!(wrong.parse::<When>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_may_differ_is_a_number_or_a_part() {
        assert_eq!("3".parse(), Ok(Allow::Count(3)));
        assert_eq!("0.5%".parse(), Ok(Allow::Percent(0.5)));
        assert!(Allow::Percent(1.0).allows(1, 100) && !Allow::Percent(1.0).allows(2, 100));
        assert!(Allow::Count(0).allows(0, 0) && !Allow::Count(0).allows(1, 0));
        for wrong in ["", "-1", "101%", "x%", "1.5", "NaN%"] {
            assert!(wrong.parse::<Allow>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration_ms("90s"), Ok(90_000));
        assert_eq!(duration_ms("1d"), Ok(86_400_000));
        for wrong in ["", "10", "m", "1w", "-1s", "99999999999999999999d", "9223372036854775807d"] {
            assert!(duration_ms(wrong).is_err(), "{wrong}");
        }
    }
}
