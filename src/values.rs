//! Values of the command line and the configuration: moments and durations.

use std::str::FromStr;

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

/// A duration in ms: a number and `ms`, `s`, `m`, `h` or `d`.
pub fn duration_ms(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a duration such as 500ms, 30s, 1m, 12h or 7d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: i64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60 * 1_000,
        "h" => 60 * 60 * 1_000,
        "d" => 24 * 60 * 60 * 1_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).ok_or_else(wrong)
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
    fn durations_have_units() {
        assert_eq!(duration_ms("90s"), Ok(90_000));
        assert_eq!(duration_ms("1d"), Ok(86_400_000));
        for wrong in ["", "10", "m", "1w", "-1s", "99999999999999999999d", "9223372036854775807d"] {
            assert!(duration_ms(wrong).is_err(), "{wrong}");
        }
    }
}
