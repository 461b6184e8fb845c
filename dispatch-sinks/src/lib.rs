//! Where dispatch pushes messages to: a room per kind of worker, each behind a cargo feature of the same name.
//!
//! | feature | type | what it does with a message |
//! |---|---|---|
//! | `http` | `http` | sends it to a URL and reads the status |

#[cfg(feature = "http")]
pub mod http;

/// Adds every sink that was compiled in.
pub fn register(registry: &mut dispatch_core::Registry) {
    #[cfg(feature = "http")]
    registry.sink::<http::HttpSinkConfig>();
    let _ = registry;
}
