//! Values with units.

use std::str::FromStr;

/// A size in bytes, written `8g`, `512m`, `2048k` or as a plain number. Units are powers of 1024, upper or lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = lower.strip_prefix(digits).unwrap_or_default();
        let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err(()),
        };
        let number: u64 = digits.trim().parse().map_err(|_| ())?;
        number.checked_mul(1 << shift).filter(|size| *size > 0).map(Self).ok_or(())
    }
}

/// How long ago, written `12h`, `30d` or `8w`. A plain number says no unit, and `m` could be minutes or months.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(pub std::time::Duration);

impl FromStr for Age {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim();
        let unit = text.chars().next_back().ok_or(())?;
        let hours: u64 = match unit {
            'h' => 1,
            'd' => 24,
            'w' => 7 * 24,
            _ => return Err(()),
        };
        let number: u32 = text.strip_suffix(unit).unwrap_or_default().trim().parse().map_err(|_| ())?;
        Ok(Self(std::time::Duration::from_secs(hours * 3600 * u64::from(number))))
    }
}

/// A time span, written `90m`, `2h`, `2h30m` or `45s`; a plain number counts minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Minutes(pub std::time::Duration);

impl FromStr for Minutes {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let seconds = match text.trim().parse::<u64>() {
            Ok(minutes) => minutes.checked_mul(60).ok_or(())?,
            Err(_) => {
                let span: jiff::SignedDuration = text.trim().parse().map_err(|_| ())?;
                u64::try_from(span.as_secs()).map_err(|_| ())?
            }
        };
        // 136 years are within what a clock can add.
        let seconds = u32::try_from(seconds).ok().filter(|seconds| *seconds > 0).ok_or(())?;
        Ok(Self(std::time::Duration::from_secs(seconds.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!("8g".parse(), Ok(Size(8 << 30)));
        assert_eq!("512MiB".parse(), Ok(Size(512 << 20)));
        assert_eq!("1024".parse(), Ok(Size(1024)));
        for wrong in ["", "g", "-1g", "8x", "0", "99999999999t"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
        let hours = |text: &str| text.parse::<Age>().map(|age| age.0.as_secs() / 3600);
        assert_eq!((hours("12h"), hours("30d"), hours("2 w"), hours("0d")), (Ok(12), Ok(720), Ok(336), Ok(0)));
        for wrong in ["", "d", "30", "-1d", "30m", "1y", "4294967296d", "3dd"] {
            assert!(hours(wrong).is_err(), "{wrong}");
        }
        let seconds = |text: &str| text.parse::<Minutes>().map(|m| m.0.as_secs());
        assert_eq!(seconds("90"), Ok(5400));
        assert_eq!(seconds("2h30m"), Ok(9000));
        assert_eq!(seconds("45s"), Ok(45));
        for wrong in ["", "0", "soon", "-5m", "300000000000000000", "9223372036854775807s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
