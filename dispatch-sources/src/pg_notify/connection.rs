//! Connections to PostgreSQL, with or without TLS as the DSN says.

use std::{sync::Arc, time::Duration};

use dispatch_core::config::{ConfigError, Secret};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_postgres::{Client, Config, Connection, Socket, config::Host, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::PgNotifyError;

/// So long a connection may take, unless the DSN has a `connect_timeout`.
const CONNECT: Duration = Duration::from_secs(10);

type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// How to connect.
#[derive(Clone)]
pub(super) struct Server {
    config: Config,
    tls: MakeRustlsConnect,
    /// Host, port and database, for people.
    pub(super) place: Arc<str>,
}

impl Server {
    /// Reads a DSN: a URL, or libpq's `key=value` text.
    pub(super) fn parse(dsn: &Secret) -> Result<Self, ConfigError> {
        let (dsn, verify) = modes(dsn.expose());
        // The client's own words may hold the password.
        let mut config: Config = dsn.parse().map_err(|_| {
            ConfigError::at("dsn", "this is no DSN of a PostgreSQL server")
                .help("\"postgres://user:password@host:5432/database\" or \"host=… dbname=… user=…\"")
        })?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        config.keepalives_idle(Duration::from_secs(30));
        config.tcp_user_timeout(Duration::from_secs(30));
        if config.get_application_name().is_none() {
            config.application_name("dispatch");
        }
        Ok(Self {
            place: place(&config).into(),
            tls: MakeRustlsConnect::new(client_config(verify)?),
            config,
        })
    }

    pub(super) async fn connect(&self) -> Result<(Client, Connection<Socket, Stream>), PgNotifyError> {
        let limit = self.config.get_connect_timeout().copied().unwrap_or(CONNECT);
        // The client's own bound is for each address, and does not cover what comes after the TCP connection.
        match tokio::time::timeout(limit * 2, self.config.connect(self.tls.clone())).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(source)) => Err(PgNotifyError::Connect {
                place: self.place.to_string(),
                source,
            }),
            Err(_) => Err(PgNotifyError::Slow {
                place: self.place.to_string(),
                limit: limit * 2,
            }),
        }
    }
}

/// libpq's `verify-ca` and `verify-full` are unknown to the client: here they are what `require` is, with the check.
fn modes(dsn: &str) -> (String, bool) {
    let verify = ["sslmode=verify-full", "sslmode=verify-ca"]
        .into_iter()
        .find(|mode| dsn.contains(mode));
    match verify {
        Some(mode) => (dsn.replace(mode, "sslmode=require"), true),
        None => (dsn.to_owned(), false),
    }
}

fn place(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{host}:{port}/{database}")
}

fn client_config(verify: bool) -> Result<ClientConfig, ConfigError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::at("dsn", format!("TLS cannot be set up: {error}")))?;
    if !verify {
        let verifier = Arc::new(AnyServer(provider));
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Takes any certificate, as libpq does for `prefer` and `require`: the line is secret, the far end is not proven.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
