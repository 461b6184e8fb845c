//! When the slots are. Pure: the time is always given.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    str::FromStr as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use croner::Cron;
use dispatch_core::config::ConfigError;
use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::Misfire;

/// How late a slot may fire and still count as in time: a few processes may die one after the other, each as it fires it.
const GRACE: Duration = Duration::from_secs(30);
/// How late the latest slot may fire where missed ones are skipped.
const LATE: Duration = Duration::from_secs(60);
/// How many slots are fired at once at most, the latest ones.
const CATCH_UP: usize = 1000;

/// An interval, or a pattern on some place's clock.
#[derive(Debug, Clone)]
pub(crate) enum Plan {
    Every(Duration),
    Cron(Box<Cron>, TimeZone),
}

impl Plan {
    /// Multiples of `interval`, which is not zero, since the Unix epoch.
    pub(crate) fn every(interval: Duration) -> Self {
        Self::Every(interval)
    }

    pub(crate) fn cron(pattern: &str, timezone: &str) -> Result<Self, ConfigError> {
        let cron = Cron::from_str(pattern).map_err(|error| {
            ConfigError::at("cron", format!("\"{pattern}\" is no cron pattern: {error}"))
                .help("write five fields (minute hour day month weekday), such as \"30 2 * * MON-FRI\"")
        })?;
        let zone = TimeZone::get(timezone).map_err(|_| {
            ConfigError::at("timezone", format!("\"{timezone}\" is no time zone"))
                .help("write an IANA name such as \"UTC\" or \"Europe/Berlin\"")
        })?;
        let plan = Self::Cron(Box::new(cron), zone);
        match plan.after(SystemTime::now()) {
            Some(_) => Ok(plan),
            None => Err(ConfigError::at("cron", format!("\"{pattern}\" never comes again"))),
        }
    }

    /// The first slot after `time`.
    pub(crate) fn after(&self, time: SystemTime) -> Option<SystemTime> {
        match self {
            Self::Every(interval) => {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                UNIX_EPOCH
                    .checked_add(since - remainder(since, *interval))?
                    .checked_add(*interval)
            }
            Self::Cron(cron, zone) => system_time(&cron.find_next_occurrence(&zoned(time, zone)?, false).ok()?),
        }
    }

    /// The last slot at `time` or before it.
    fn until(&self, time: SystemTime) -> Option<SystemTime> {
        match self {
            Self::Every(interval) => {
                let since = time.duration_since(UNIX_EPOCH).ok()?;
                UNIX_EPOCH.checked_add(since - remainder(since, *interval))
            }
            Self::Cron(cron, zone) => system_time(&cron.find_previous_occurrence(&zoned(time, zone)?, true).ok()?),
        }
    }

    /// Which of the slots after `handled` are to fire now, oldest first, and up to where all are handled then. Those that are
    /// late by no more than [`GRACE`] all fire: whoever was to fire them may just have died.
    pub(crate) fn due(&self, handled: SystemTime, now: SystemTime, misfire: Misfire) -> (Vec<SystemTime>, SystemTime) {
        let Some(latest) = self.until(now).filter(|latest| *latest > handled) else {
            return (Vec::new(), handled);
        };
        // A slot just so late is in time.
        let too_late = now.checked_sub(GRACE + Duration::from_nanos(1)).unwrap_or(UNIX_EPOCH);
        let mut last = match misfire {
            Misfire::Skip | Misfire::Once => handled.max(too_late),
            Misfire::All => handled,
        };
        let mut slots = VecDeque::new();
        while let Some(next) = self.after(last).filter(|next| *next <= latest) {
            if slots.len() == CATCH_UP {
                slots.pop_front();
            }
            slots.push_back(next);
            last = next;
        }
        let catches_up = match misfire {
            Misfire::Once => true,
            Misfire::Skip => now.duration_since(latest).unwrap_or_default() <= LATE,
            Misfire::All => false,
        };
        if slots.is_empty() && catches_up {
            slots.push_back(latest);
        }
        (slots.into(), latest)
    }
}

/// How much later than `slot` it fires: the same in every process.
pub(crate) fn jitter(schedule: &str, slot: SystemTime, most: Duration) -> Duration {
    // Fixed keys, so the same everywhere; a version of Rust that hashes otherwise fires once at another moment.
    let mut hasher = DefaultHasher::new();
    (schedule, slot).hash(&mut hasher);
    let share = (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64;
    most.mul_f64(share)
}

/// A slot as people read it.
pub(crate) fn name(slot: SystemTime) -> String {
    match Timestamp::try_from(slot) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{slot:?}"),
    }
}

/// The slot that has this name.
#[cfg(feature = "schedule")]
pub(crate) fn time(name: &str) -> Option<SystemTime> {
    Timestamp::from_str(name).ok().map(SystemTime::from)
}

fn remainder(since: Duration, interval: Duration) -> Duration {
    let rest = since.as_nanos() % interval.as_nanos().max(1);
    Duration::from_nanos_u128(rest)
}

/// The whole second that `time` lies in, on that clock.
fn zoned(time: SystemTime, zone: &TimeZone) -> Option<Zoned> {
    let time = Timestamp::try_from(time).ok()?;
    Some(Timestamp::from_second(time.as_second()).ok()?.to_zoned(zone.clone()))
}

fn system_time(time: &Zoned) -> Option<SystemTime> {
    Some(time.timestamp().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().into()
    }

    fn slots(plan: &Plan, from: &str, count: usize) -> Vec<String> {
        let next = |time: &SystemTime| plan.after(*time);
        let mut time = at(from);
        (0..count)
            .map(|_| {
                time = next(&time).unwrap();
                name(time)
            })
            .collect()
    }

    #[test]
    fn intervals_are_counted_from_the_epoch() {
        let plan = Plan::every(Duration::from_secs(900));

        assert_eq!(
            slots(&plan, "2026-03-01T11:59:59.5Z", 3),
            ["2026-03-01T12:00:00Z", "2026-03-01T12:15:00Z", "2026-03-01T12:30:00Z"]
        );
        assert_eq!(slots(&plan, "2026-03-01T12:00:00Z", 1), ["2026-03-01T12:15:00Z"]);
    }

    #[test]
    fn patterns_follow_the_clock_of_their_place() {
        // Berlin goes from 02:00 to 03:00 on 29 March 2026 (01:00Z) and back from 03:00 to 02:00 on 25 October (01:00Z).
        for (pattern, from, expected) in [
            (
                "0 12 * * *",
                "2026-03-28T00:00:00Z",
                &["2026-03-28T11:00:00Z", "2026-03-29T10:00:00Z"][..],
            ),
            (
                "30 2 * * *",
                "2026-03-28T00:00:00Z",
                &["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
            ),
            (
                "30 2 * * *",
                "2026-10-24T12:00:00Z",
                &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
            ),
            (
                "*/30 * * * * *",
                "2026-01-01T00:00:00.2Z",
                &["2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"],
            ),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", &["2028-02-28T23:00:00Z"]),
        ] {
            let plan = Plan::cron(pattern, "Europe/Berlin").unwrap();

            assert_eq!(slots(&plan, from, expected.len()), expected, "{pattern}");
        }
    }

    #[test]
    fn missed_slots_follow_the_policy() {
        let plan = Plan::every(Duration::from_secs(600));
        let handled = "2026-01-01T00:00:00Z";
        for (misfire, now, fired, handled_after) in [
            (Misfire::Once, "2026-01-01T00:09:59Z", &[][..], handled),
            (
                Misfire::Once,
                "2026-01-01T00:10:00Z",
                &["2026-01-01T00:10:00Z"],
                "2026-01-01T00:10:00Z",
            ),
            (
                Misfire::Once,
                "2026-01-01T00:35:00Z",
                &["2026-01-01T00:30:00Z"],
                "2026-01-01T00:30:00Z",
            ),
            (
                Misfire::Skip,
                "2026-01-01T00:10:59Z",
                &["2026-01-01T00:10:00Z"],
                "2026-01-01T00:10:00Z",
            ),
            (Misfire::Skip, "2026-01-01T00:35:00Z", &[], "2026-01-01T00:30:00Z"),
            (
                Misfire::All,
                "2026-01-01T00:35:00Z",
                &["2026-01-01T00:10:00Z", "2026-01-01T00:20:00Z", "2026-01-01T00:30:00Z"],
                "2026-01-01T00:30:00Z",
            ),
        ] {
            let (due, after) = plan.due(at(handled), at(now), misfire);

            let due: Vec<_> = due.into_iter().map(name).collect();
            assert_eq!(
                (due, name(after).as_str()),
                (fired.iter().map(|slot| (*slot).to_owned()).collect(), handled_after),
                "{misfire:?} {now}"
            );
        }
    }

    #[test]
    fn all_that_are_in_time_fire_whatever_the_policy() {
        let plan = Plan::every(Duration::from_secs(20));
        for (now, fired) in [
            ("00:00:40Z", &["00:00:20Z", "00:00:40Z"][..]),
            ("00:01:50Z", &["00:01:20Z", "00:01:40Z"]),
            ("00:01:51Z", &["00:01:40Z"]),
        ] {
            for misfire in [Misfire::Once, Misfire::Skip] {
                let (due, _) = plan.due(at("2026-01-01T00:00:00Z"), at(&format!("2026-01-01T{now}")), misfire);

                let due: Vec<_> = due.into_iter().map(|slot| name(slot)[11..].to_owned()).collect();
                assert_eq!(due, fired, "{misfire:?} {now}");
            }
        }
    }

    #[test]
    fn catching_up_is_bounded_and_keeps_the_latest() {
        let plan = Plan::every(Duration::from_secs(1));

        let (due, _) = plan.due(at("2026-01-01T00:00:00Z"), at("2026-01-01T02:00:00Z"), Misfire::All);

        assert_eq!((due.len(), name(due[999])), (1000, "2026-01-01T02:00:00Z".to_owned()));
    }

    #[test]
    fn jitter_differs_from_slot_to_slot_and_stays_in_bounds() {
        let most = Duration::from_secs(30);
        let delays: Vec<_> = (0..100)
            .map(|second| jitter("s", UNIX_EPOCH + Duration::from_secs(second), most))
            .collect();

        assert!(delays.iter().all(|delay| *delay < most));
        assert!(delays.windows(2).any(|pair| pair[0] != pair[1]));
        assert_eq!(delays[7], jitter("s", UNIX_EPOCH + Duration::from_secs(7), most));
    }

    #[test]
    fn mistakes_name_their_field() {
        for (pattern, zone, field) in [
            ("61 * * * *", "UTC", "cron"),
            ("often", "UTC", "cron"),
            ("0 0 31 2 *", "UTC", "cron"),
            ("0 0 * * *", "Mars/Olympus", "timezone"),
        ] {
            assert_eq!(
                Plan::cron(pattern, zone).unwrap_err().field.as_deref(),
                Some(field),
                "{pattern}"
            );
        }
    }
}
