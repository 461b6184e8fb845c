use std::time::SystemTime;

use smol_str::SmolStr;

/// Somebody who claims from a store's queues: a process, once for each store that it has open.
///
/// What a node holds is ready again when its leases run out, or when it has not been heard of for a while: then it is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name: the configured one, or one drawn by chance.
    pub name: SmolStr,
    /// The machine that it runs on.
    pub host: SmolStr,
    /// Its process there: the number and some letters drawn by chance.
    pub process: SmolStr,
    /// Since when it claims.
    pub started_at: SystemTime,
    /// When it was last heard of.
    pub last_seen: SystemTime,
    /// Whether that is not too long ago.
    pub alive: bool,
    /// How many messages it holds.
    pub held: u64,
}
