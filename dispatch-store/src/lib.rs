//! Where dispatch keeps what must outlive a process: a room for each kind of place.
//!
//! | type | feature | what it is |
//! |---|---|---|
//! | [`memory`] | always | process memory, for trials and tests |
//! | `sqlite` | `sqlite` | a database file of our own |
//! | `postgres` | `postgres` | a PostgreSQL server, shared by many processes |
//! | `redis` | `redis` | a Redis server, for what `[dedupe]` remembers |

pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub mod sql;

use dispatch_core::Registry;
pub use memory::MemoryConfig;
#[cfg(feature = "redis")]
pub use redis::RedisConfig;
#[cfg(feature = "sqlite")]
pub use sql::SqliteConfig;
#[cfg(feature = "postgres")]
pub use sql::{PostgresConfig, Wakeup};

/// Adds every store of this crate; those that were left out are noted with the feature that adds them.
pub fn register(registry: &mut Registry) {
    registry.store::<MemoryConfig>();
    #[cfg(feature = "sqlite")]
    registry.store::<SqliteConfig>();
    #[cfg(not(feature = "sqlite"))]
    registry.absent("sqlite", "build with the feature `sqlite` of dispatch-store");
    #[cfg(feature = "postgres")]
    registry.store::<PostgresConfig>();
    #[cfg(not(feature = "postgres"))]
    registry.absent("postgres", "build with the feature `postgres` of dispatch-store");
    #[cfg(feature = "redis")]
    registry.store::<RedisConfig>();
    #[cfg(not(feature = "redis"))]
    registry.absent("redis", "build with the feature `redis` of dispatch-store");
}
