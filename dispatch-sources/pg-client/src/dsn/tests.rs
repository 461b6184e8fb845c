//! Keywords in both forms.

use std::time::Duration;

use super::*;

/// Both ways of writing the same.
fn ways(key: &str, value: &str) -> [String; 2] {
    [
        format!("host=h user=u {key}={}", quoted(value)),
        format!(
            "postgres://u@h/?{key}={}",
            percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC)
        ),
    ]
}

#[test]
fn modes_of_tls_are_libpqs_however_they_are_written() {
    for (mode, client, check) in [
        ("disable", SslMode::Disable, Check::Nothing),
        ("allow", SslMode::Prefer, Check::Nothing),
        ("prefer", SslMode::Prefer, Check::Nothing),
        ("require", SslMode::Require, Check::Nothing),
        ("verify-ca", SslMode::Require, Check::Issuer),
        ("verify-full", SslMode::Require, Check::Name),
    ] {
        let [quoted, url] = ways("sslmode", mode);
        for dsn in [
            quoted,
            url,
            format!("sslmode={mode}"),
            format!("sslmode = {mode} host=h"),
        ] {
            let (config, tls) = read(&dsn).unwrap();
            assert_eq!((config.get_ssl_mode(), tls.check), (client, check), "{dsn}");
        }
    }
    for (dsn, mode, check) in [
        ("requiressl=1", SslMode::Require, Check::Nothing),
        ("requiressl=0", SslMode::Prefer, Check::Nothing),
        ("postgres://h/?ssl=true", SslMode::Require, Check::Nothing),
        ("sslrootcert=system", SslMode::Require, Check::Name),
        ("sslrootcert=a.pem sslmode=require", SslMode::Require, Check::Issuer),
        ("sslrootcert=a.pem", SslMode::Prefer, Check::Nothing),
        ("sslmode=disable sslmode=verify-full", SslMode::Require, Check::Name),
        // It says nothing of itself.
        ("password=sslmode=verify-full", SslMode::Prefer, Check::Nothing),
    ] {
        let (config, tls) = read(dsn).unwrap();
        assert_eq!((config.get_ssl_mode(), tls.check), (mode, check), "{dsn}");
    }
}

#[test]
fn what_only_libpq_knows_is_left_out() {
    let (plain, _) = read("host=h user=u").unwrap();
    for (key, value) in [
        ("client_encoding", "utf8"),
        ("gssencmode", "disable"),
        ("gssencmode", "prefer"),
        ("gssdelegation", "0"),
        ("gsslib", "gssapi"),
        ("krbsrvname", "postgres"),
        ("sslcompression", "0"),
        ("sslsni", "1"),
        ("sslcertmode", "allow"),
        ("ssl_min_protocol_version", "TLSv1.2"),
        ("ssl_max_protocol_version", "TLSv1.3"),
        ("replication", "false"),
        ("max_protocol_version", "latest"),
        ("require_auth", ""),
        ("service", ""),
    ] {
        for dsn in ways(key, value) {
            let (mut config, _) = read(&dsn).unwrap_or_else(|error| panic!("{dsn}: {error}"));
            config.get_ports().is_empty().then(|| config.port(5432));
            let mut plain = plain.clone();
            plain.port(5432);
            assert_eq!(format!("{config:?}"), format!("{plain:?}"), "{dsn}");
        }
    }
}

#[test]
fn what_cannot_be_had_is_refused_by_name_and_without_its_value() {
    for (key, value, part) in [
        ("require_auth", "scram-c4n4ry", "channel_binding=require"),
        ("ssl_min_protocol_version", "TLSv1.3c4n4ry", "TLS 1.2 and 1.3"),
        ("ssl_max_protocol_version", "TLSv1.2", "TLS 1.2 and 1.3"),
        ("sslpassword", "c4n4ry", "not read"),
        ("sslcert", "c4n4ry.pem", "`sslkey`"),
        ("sslkey", "c4n4ry.pem", "`sslcert`"),
        ("sslcertmode", "require", "leave it out"),
        ("sslcrl", "c4n4ry", "revoked"),
        ("requirepeer", "c4n4ry", "directory"),
        ("gssencmode", "require", "sslmode"),
        ("service", "c4n4ry", "keywords"),
        ("passfile", "c4n4ry", "PGPASSWORD"),
        ("oauth_issuer", "c4n4ry", "OAuth"),
        ("sslmode", "c4n4ry", "verify-full"),
        ("connect_timeout", "c4n4ry", "a whole number"),
        ("tcp_user_timeout", "c4n4ry", "a whole number"),
        ("keepalives_count", "c4n4ry", "a whole number"),
        ("target_session_attrs", "standby", "read-write"),
        ("conect_timeout", "c4n4ry", "no such keyword"),
    ] {
        for dsn in ways(key, value) {
            let error = read(&dsn).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{key}`")) && error.contains(part),
                "{dsn}: {error}"
            );
            assert!(!error.contains("c4n4ry"), "{error}");
        }
    }
    let error = read("sslrootcert=system sslmode=require").unwrap_err().to_string();
    assert!(error.contains("`sslrootcert`"), "{error}");
}

#[test]
fn what_is_no_keyword_at_all_is_not_repeated() {
    for dsn in [
        "c4n4ry",
        "password=a c4n4ry",
        "password='c4n4ry",
        "c4n4ry x=1",
        "=c4n4ry",
        "PassC4n4ry=c4n4ry",
        "postgres://h/?c4n4ry",
        "postgres://h/?a=%FF",
        "postgres://u:c4n4ry@h:port/",
    ] {
        assert_eq!(read(dsn).unwrap_err(), DsnError::Form, "{dsn}");
    }
}

#[test]
fn bounds_of_the_user_go_before_ours() {
    let bounds = |dsn: &str| {
        let (config, _) = read(dsn).unwrap();
        (
            config.get_keepalives_idle(),
            config.get_keepalives_interval(),
            config.get_keepalives_retries(),
            config.get_tcp_user_timeout().copied(),
        )
    };
    let seconds = Duration::from_secs;

    assert_eq!(bounds(""), (seconds(30), None, None, Some(seconds(30))));
    let all = "keepalives_idle=7 keepalives_interval=3 keepalives_count=5 tcp_user_timeout=1500";
    let own = (
        seconds(7),
        Some(seconds(3)),
        Some(5),
        Some(Duration::from_millis(1_500)),
    );
    assert_eq!(bounds(all), own);
    assert_eq!(bounds(&format!("postgres://h/?{}", all.replace(' ', "&"))), own);
    let (_, _, count, timeout) = bounds("tcp_user_timeout=0 keepalives_count=0");
    assert_eq!((count, timeout), (None, None), "the system's");
}

#[test]
fn the_last_word_counts_and_a_query_goes_before_its_url() {
    let read = |dsn: &str| {
        let (config, _) = read(dsn).unwrap();
        let password = config.get_password().map(|it| String::from_utf8_lossy(it).into_owned());
        (
            format!("{:?}:{:?}", config.get_hosts(), config.get_ports()),
            config.get_user().unwrap_or_default().to_owned(),
            password.unwrap_or_default(),
            config.get_application_name().unwrap_or_default().to_owned(),
        )
    };
    let wanted = |place: &str, user: &str, password: &str, name: &str| {
        (place.to_owned(), user.to_owned(), password.to_owned(), name.to_owned())
    };

    assert_eq!(
        read("host=a host = b  port=1 user='it\\'s me' password=a\\ b\\\\ fallback_application_name=f"),
        wanted("[Tcp(\"b\")]:[1]", "it's me", "a b\\", "f")
    );
    assert_eq!(
        read("postgresql://u:w?=@a:1/d?host=%2Frun%2Fpg&port=2&application_name=x%26y@z&fallback_application_name=f"),
        wanted("[Unix(\"/run/pg\")]:[2]", "u", "w?=", "x&y@z")
    );
    assert_eq!(
        read("postgres://a:1,[::1]:2?user=u"),
        wanted("[Tcp(\"a\"), Tcp(\"::1\")]:[1, 2]", "u", "", "")
    );
}
