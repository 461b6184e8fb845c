//! The roles, each change one command or one script.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use dispatch_core::{
    Error,
    store::{Positions, Rates, Reservation, Reservations, Slots, Taken},
};
use redis::{AsyncCommands, Script};

use super::store::RedisStore;

/// A key's value is `p:` and its owner while the work is in progress, and `d` once it is done.
///
/// KEYS: the key. ARGV: our value, the lease in ms. Answers what was found (0 ours now, 1 in progress, 2 done) and for how
/// many ms more.
static RESERVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local held = redis.call('GET', KEYS[1])
         if not held or held == ARGV[1] then
             redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
             return {0, 0}
         end
         return {held == 'd' and 2 or 1, redis.call('PTTL', KEYS[1])}",
    )
});

/// KEYS: the key. ARGV: our value, how long to remember in ms. Answers whether the key was ours.
static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         redis.call('SET', KEYS[1], 'd', 'PX', ARGV[2])
         return 1",
    )
});

/// KEYS: the key. ARGV: our value.
static CANCEL: LazyLock<Script> =
    LazyLock::new(|| Script::new("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"));

/// KEYS: a schedule's slots. ARGV: the earliest to stay. The latest one stays whatever its time. Answers how many went.
static PRUNE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local latest = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
         if not latest[2] then return 0 end
         return redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. math.min(ARGV[1], latest[2]))",
    )
});

/// A rate's value is the microsecond since 1970 up to which its time is taken; it is forgotten once that is a burst ago.
///
/// KEYS: the rate. ARGV: the piece to take and the burst, in microseconds. Answers in how many microseconds it begins.
static TAKE_RATE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = time[1] * 1000000 + time[2]
         local begin = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now - ARGV[2])
         local left = begin + ARGV[1] - now + ARGV[2]
         redis.call('SET', KEYS[1], string.format('%.0f', begin + ARGV[1]), 'PX', string.format('%.0f', left / 1000 + 1))
         return begin - now",
    )
});

/// Redis has no shorter life than a millisecond.
fn millis(period: Duration) -> u64 {
    u64::try_from(period.as_millis())
        .unwrap_or(i64::MAX as u64)
        .clamp(1, i64::MAX as u64)
}

fn ours(owner: &str) -> String {
    format!("p:{owner}")
}

#[async_trait]
impl Reservations for RedisStore {
    async fn reserve(&self, key: &str, owner: &str, lease: Duration) -> Result<Reservation, Error> {
        let key = self.key("reserved", key);
        let (found, left): (u8, i64) = self
            .ask("reserve a key", async |redis| {
                RESERVE
                    .key(key)
                    .arg(ours(owner))
                    .arg(millis(lease))
                    .invoke_async(redis)
                    .await
            })
            .await?;
        let until = SystemTime::now() + Duration::from_millis(u64::try_from(left).unwrap_or_default());
        Ok(match found {
            0 => Reservation::Reserved,
            1 => Reservation::InProgress(until),
            _ => Reservation::Done(until),
        })
    }

    async fn commit(&self, key: &str, owner: &str, keep: Duration) -> Result<bool, Error> {
        let key = self.key("reserved", key);
        self.ask("remember a key as done", async |redis| {
            COMMIT
                .key(key)
                .arg(ours(owner))
                .arg(millis(keep))
                .invoke_async(redis)
                .await
        })
        .await
    }

    async fn cancel(&self, key: &str, owner: &str) -> Result<(), Error> {
        let key = self.key("reserved", key);
        self.ask("give a key back", async |redis| {
            CANCEL.key(key).arg(ours(owner)).invoke_async(redis).await
        })
        .await
    }

    /// Redis forgets by itself: there is never anything left to forget.
    async fn expire(&self) -> Result<u64, Error> {
        Ok(0)
    }
}

#[async_trait]
impl Slots for RedisStore {
    async fn take(&self, schedule: &str, at: SystemTime) -> Result<bool, Error> {
        let (slots, all) = (self.key("slots", schedule), self.key("schedules", ""));
        let micros = micros(at);
        let (taken, _): (bool, u64) = self
            .ask("take a schedule's slot", async |redis| {
                redis::pipe()
                    .atomic()
                    .zadd_options(&slots, micros, micros, &redis::SortedSetAddOptions::add_only())
                    .sadd(all, &slots)
                    .query_async(redis)
                    .await
            })
            .await?;
        Ok(taken)
    }

    async fn last(&self, schedule: &str) -> Result<Option<SystemTime>, Error> {
        let slots = self.key("slots", schedule);
        let last: Vec<i64> = self
            .ask("read a schedule's last slot", async |redis| {
                redis.zrevrange(slots, 0, 0).await
            })
            .await?;
        Ok(last.first().map(|micros| time(*micros)))
    }

    async fn prune(&self, before: SystemTime) -> Result<u64, Error> {
        let all = self.key("schedules", "");
        let schedules: Vec<String> = self
            .ask("list the schedules", async |redis| redis.smembers(all).await)
            .await?;
        let mut pruned = 0;
        for slots in schedules {
            pruned += self
                .ask("prune a schedule's slots", async |redis| {
                    PRUNE.key(slots).arg(micros(before)).invoke_async::<u64>(redis).await
                })
                .await?;
        }
        Ok(pruned)
    }
}

#[async_trait]
impl Positions for RedisStore {
    async fn load(&self, name: &str) -> Result<Option<u64>, Error> {
        let key = self.key("position", name);
        self.ask("load a position", async |redis| redis.get(key).await).await
    }

    async fn save(&self, name: &str, position: Option<u64>) -> Result<(), Error> {
        let key = self.key("position", name);
        self.ask("save a position", async |redis| match position {
            Some(position) => redis.set(key, position).await,
            None => redis.del(key).await,
        })
        .await
    }
}

#[async_trait]
impl Rates for RedisStore {
    async fn take(&self, name: &str, span: Duration, burst: Duration) -> Result<Taken, Error> {
        // A double holds what comes of these exactly.
        let [span, burst] =
            [span, burst].map(|length| u64::try_from(length.as_micros()).unwrap_or(u64::MAX).min(1 << 51));
        let key = self.key("rate", name);
        let begins = self
            .ask("take of a rate", async |redis| {
                TAKE_RATE.key(key).arg(span).arg(burst).invoke_async(redis).await
            })
            .await?;
        Ok(Taken::in_micros(begins))
    }
}

/// Microseconds since 1970: a sorted set's score is a double, which holds them exactly until the year 2255.
fn micros(at: SystemTime) -> i64 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    }
}

fn time(micros: i64) -> SystemTime {
    let length = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 {
        SystemTime::UNIX_EPOCH - length
    } else {
        SystemTime::UNIX_EPOCH + length
    }
}
