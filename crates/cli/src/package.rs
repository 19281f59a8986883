//! Package files as the owner's commands read them: mapped, checked against an owner, never opened.

use crate::failure::{Failure, Outcome, own};
use bytes::Bytes;
use cordon_package::{Checked, OwnerPublic, Parsed, Trust, check_public};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A mapped package.
pub(crate) struct MappedPackage {
    /// The whole file.
    pub(crate) bytes: Bytes,
}

impl MappedPackage {
    /// Maps a file.
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        let failed = |error: std::io::Error| {
            Failure::new(
                &own::UNREADABLE,
                format!("cannot read package {}: {error}", path.display()),
                "check the path and its permissions",
            )
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Failure::new(
                &own::UNREADABLE,
                format!("{} is not a file", path.display()),
                "name the .cordon file itself",
            ));
        }
        Ok(Self { bytes: cordon_mapped::file(&file).map_err(failed)? })
    }

    /// Checks signature, digests and manifest. Packages of development platforms are accepted: nothing is run here, and
    /// the mark is printed.
    pub(crate) fn verify(&self, owners: &[OwnerPublic]) -> Outcome<Checked> {
        let trust = Trust { now: now(), dangerous_accept_development: true, ..Trust::pinned(owners) };
        Ok(check_public(&self.bytes, &trust)?)
    }

    /// Who the header says signed it. Nothing vouches for it.
    pub(crate) fn claimed_owner(&self) -> Outcome<OwnerPublic> {
        Ok(*Parsed::parse_file(&self.bytes)?.claimed_owner())
    }
}

/// Unix time by this machine's clock.
pub(crate) fn now() -> Option<u64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// A day as people write it, from Unix time.
pub(crate) fn date(unix: u64) -> String {
    let (mut year, mut day) = (1970u64, unix / 86_400);
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
        if year > 9999 {
            return format!("Unix time {unix}");
        }
    }
    let mut month = 1;
    for days in months(leap(year)) {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", day + 1)
}

/// The last second of a day `YYYY-MM-DD`, as Unix time.
pub(crate) fn parse_date(text: &str) -> Result<u64, String> {
    let usage = || "write a date as YYYY-MM-DD, from 1970 to 9999".to_owned();
    let parts: Vec<u64> = text.split('-').map(|part| part.parse().ok()).collect::<Option<_>>().ok_or_else(usage)?;
    let &[year, month, day] = parts.as_slice() else { return Err(usage()) };
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let months = months(leap(year));
    let length = usize::try_from(month).ok().and_then(|month| months.get(month.checked_sub(1)?)).copied();
    if !(1970..=9999).contains(&year) || !length.is_some_and(|length| (1..=length).contains(&day)) {
        return Err(usage());
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(leap(year))).sum();
    let before: u64 = months.iter().zip(1..month).map(|(days, _)| days).sum();
    Ok((years + before + day) * 86_400 - 1)
}

fn months(leap: bool) -> [u64; 12] {
    [31, 28 + u64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_unix_time_agree() {
        assert_eq!(parse_date("1970-01-01"), Ok(86_399));
        assert_eq!(parse_date("2000-02-29"), Ok(951_868_799));
        assert_eq!(parse_date("2026-11-21"), Ok(1_795_305_599));
        for text in ["1970-01-01", "1999-12-31", "2000-02-29", "2024-02-29", "2026-11-21", "2100-03-01"] {
            assert_eq!(date(parse_date(text).expect(text)), text);
        }
        for bad in ["2026-02-29", "2026-13-01", "2026-00-10", "20261121", "1969-12-31", "2026-01-32", "x-y-z", ""] {
            assert!(parse_date(bad).is_err(), "{bad}");
        }
    }
}
