//! A file's values without their places.

use smol_str::SmolStr;
use toml::de::DeValue;

use super::read::Value;

/// The value as JSON, without places.
pub(super) fn plain(value: &Value<'_>) -> serde_json::Value {
    match value.get_ref() {
        DeValue::Table(table) => {
            let mut entries: Vec<_> = table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), plain(value)))
                .collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            serde_json::Value::Object(entries.into_iter().collect())
        }
        DeValue::Array(array) => array.iter().map(plain).collect(),
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Boolean(truth) => (*truth).into(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.as_str().into(), Into::into)
        }
        DeValue::Float(number) => number
            .as_str()
            .parse::<f64>()
            .map_or_else(|_| number.as_str().into(), Into::into),
        DeValue::Datetime(time) => time.to_string().into(),
    }
}

/// Tells configurations apart; the same over restarts of the same build.
pub(super) fn hash_of(settings: &serde_json::Value) -> SmolStr {
    // FNV-1a: no secret needs hiding here, and the result must not change with the standard library.
    let hash = settings
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}").into()
}
