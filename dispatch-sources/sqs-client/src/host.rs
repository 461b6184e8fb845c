//! What the host of a queue's URL says. The SDK sends the URL along, and asks the host of the region.

/// How Amazon's hosts end, the longer ones first.
const ENDS: [&str; 4] = [
    ".amazonaws.com.cn",
    ".amazonaws.com",
    // Those of two stacks, IPv4 and IPv6.
    ".api.amazonwebservices.com.cn",
    ".api.aws",
];

/// The region of a queue's URL at one of Amazon's hosts: of today, of the days before regions had names, of FIPS, of both
/// stacks, and of a VPC's own endpoint.
///
/// ```
/// use dispatch_sqs_client::region_of;
///
/// assert_eq!(region_of("https://sqs.eu-west-1.amazonaws.com/123456789012/orders").as_deref(), Some("eu-west-1"));
/// assert_eq!(region_of("https://queue.amazonaws.com/123456789012/orders").as_deref(), Some("us-east-1"));
/// assert_eq!(region_of("http://127.0.0.1:9324/000000000000/orders"), None);
/// ```
#[must_use]
pub fn region_of(url: &str) -> Option<String> {
    let host = host(url)?;
    let amazon = amazon(&host)?;
    let region = match amazon.split('.').collect::<Vec<_>>()[..] {
        ["sqs" | "sqs-fips", region] | [region, "queue"] | [.., "sqs" | "sqs-fips", region, "vpce"] => region,
        ["queue"] => "us-east-1",
        _ => return None,
    };
    Some(region.to_owned())
}

/// Where a queue is asked whose URL is not at the region's own host: another server than Amazon's, a VPC's endpoint, FIPS or
/// both stacks. None where the SDK finds it.
pub(crate) fn endpoint_of(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    let host = host(url)?;
    let usual = host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn");
    let usual =
        usual && amazon(&host).is_some_and(|amazon| !amazon.starts_with("sqs-fips.") && !amazon.ends_with(".vpce"));
    (!usual).then(|| Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?)))?
}

fn host(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    Some(uri.host()?.to_ascii_lowercase())
}

/// What stands before Amazon's own name.
fn amazon(host: &str) -> Option<&str> {
    ENDS.iter().find_map(|end| host.strip_suffix(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_url_says_its_region_and_its_endpoint() {
        let vpce = "https://vpce-0a1b-2c3d.sqs.us-east-1.vpce.amazonaws.com";
        let zone = "https://vpce-0a1b-2c3d-us-east-1a.sqs.us-east-1.vpce.amazonaws.com";
        for (base, region, own) in [
            ("https://sqs.eu-west-1.amazonaws.com", Some("eu-west-1"), false),
            ("https://SQS.EU-WEST-1.amazonaws.com", Some("eu-west-1"), false),
            ("https://sqs.us-gov-west-1.amazonaws.com", Some("us-gov-west-1"), false),
            ("https://sqs.cn-north-1.amazonaws.com.cn", Some("cn-north-1"), false),
            ("https://eu-west-2.queue.amazonaws.com", Some("eu-west-2"), false),
            ("https://cn-north-1.queue.amazonaws.com.cn", Some("cn-north-1"), false),
            ("https://queue.amazonaws.com", Some("us-east-1"), false),
            ("https://sqs-fips.us-east-1.amazonaws.com", Some("us-east-1"), true),
            ("https://sqs.us-east-1.api.aws", Some("us-east-1"), true),
            ("https://sqs-fips.us-east-2.api.aws", Some("us-east-2"), true),
            (
                "https://sqs.cn-north-1.api.amazonwebservices.com.cn",
                Some("cn-north-1"),
                true,
            ),
            (vpce, Some("us-east-1"), true),
            (zone, Some("us-east-1"), true),
            ("http://127.0.0.1:9324", None, true),
            ("https://sqs.eu-west-1.amazonaws.com.example.org", None, true),
        ] {
            let url = format!("{base}/123456789012/q");
            assert_eq!(region_of(&url).as_deref(), region, "{url}");
            assert_eq!(endpoint_of(&url).as_deref(), own.then_some(base), "{url}");
        }
    }
}
