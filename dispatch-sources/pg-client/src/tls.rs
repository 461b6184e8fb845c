//! TLS as libpq's modes mean it.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use crate::DsnError;

/// What the server must prove, and what is shown to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) check: Check,
    /// A file of certificates; none means the system's.
    pub(super) roots: Option<String>,
    /// The files of our own certificate and its key.
    pub(super) client: Option<(String, String)>,
    /// Whether the server's name is said to it.
    pub(super) sni: bool,
}

/// What the server must prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing.
    Nothing,
    /// That somebody we trust has signed its certificate.
    Issuer,
    /// That, and that it is the one we have asked for.
    Name,
}

/// # Errors
/// A file cannot be read, or there is no certificate in it.
pub(super) fn client_config(tls: &Tls) -> Result<ClientConfig, DsnError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3");
    let verifier: Arc<dyn ServerCertVerifier> = match tls.check {
        Check::Nothing => Arc::new(AnyServer(provider)),
        check => {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(tls)?), provider).build();
            // It fails where there are no roots.
            let verifier = verifier.map_err(|_| {
                DsnError::keyword(
                    "sslmode",
                    "this machine trusts no certificates: name some with `sslrootcert`",
                )
            })?;
            match check {
                Check::Issuer => Arc::new(AnyName(verifier)),
                _ => verifier,
            }
        }
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates("sslcert", certificate)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                DsnError::keyword("sslkey", format!("no key that is not encrypted in {key}: {error}"))
            })?;
            let config = builder.with_client_auth_cert(chain, private);
            config.map_err(|error| DsnError::keyword("sslkey", format!("{key} does not fit {certificate}: {error}")))?
        }
    };
    config.enable_sni = tls.sni;
    Ok(config)
}

fn roots(tls: &Tls) -> Result<RootCertStore, DsnError> {
    let mut roots = RootCertStore::empty();
    match &tls.roots {
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(path) => {
            for certificate in certificates("sslrootcert", path)? {
                let added = roots.add(certificate);
                added.map_err(|error| DsnError::keyword("sslrootcert", format!("a certificate in {path}: {error}")))?;
            }
        }
    }
    Ok(roots)
}

/// All certificates of a file, of which there must be one.
fn certificates(key: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, DsnError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(DsnError::keyword(
            key,
            format!("there is no certificate in {path}, a file of PEM is wanted"),
        )),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(DsnError::keyword(
            key,
            format!("certificates cannot be read from {path}: {error}"),
        )),
    }
}

/// Takes any name of a server whose certificate is good, as libpq does for `verify-ca`.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end, between, name, ocsp, now) {
            // The name is what it looks at last.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::{
        ClientConnection, ServerConfig, ServerConnection, pki_types::PrivatePkcs8KeyDer, server::WebPkiClientVerifier,
    };

    use super::*;

    /// An authority, a server of the name `db.example` and a client that it has signed, as files.
    struct Place {
        files: tempfile::TempDir,
        server: ServerConfig,
    }

    impl Place {
        fn new() -> Self {
            let files = tempfile::tempdir().unwrap();
            let write = |name: &str, text: String| std::fs::write(files.path().join(name), text).unwrap();
            let authority = || {
                let mut params = CertificateParams::new(Vec::new()).unwrap();
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                let key = KeyPair::generate().unwrap();
                (params.self_signed(&key).unwrap(), Issuer::new(params, key))
            };
            let (root, issuer) = authority();
            write("root.pem", root.pem());
            write("other.pem", authority().0.pem());
            write("empty.pem", String::new());
            let signed = |name: &str| {
                let key = KeyPair::generate().unwrap();
                let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
                (params.signed_by(&key, &issuer).unwrap(), key)
            };
            let (client, key) = signed("dispatch");
            write("client.pem", client.pem());
            write("client.key", key.serialize_pem());

            let (certificate, key) = signed("db.example");
            let provider = Arc::new(ring::default_provider());
            let mut trusted = RootCertStore::empty();
            trusted.add(root.der().clone()).unwrap();
            let asks = WebPkiClientVerifier::builder_with_provider(trusted.into(), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .unwrap();
            let server = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_client_cert_verifier(asks)
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
                )
                .unwrap();
            Self { files, server }
        }

        fn file(&self, name: &str) -> String {
            self.files.path().join(name).display().to_string()
        }

        /// Whether a connection comes about, and how many certificates of ours and what name of its own the server was told.
        fn meets(&self, name: &'static str, tls: &Tls) -> Result<(usize, Option<String>), rustls::Error> {
            let config = Arc::new(client_config(tls).unwrap());
            let mut client = ClientConnection::new(config, name.try_into().unwrap())?;
            let mut server = ServerConnection::new(Arc::new(self.server.clone()))?;
            while client.is_handshaking() || server.is_handshaking() {
                let mut bytes = Vec::new();
                client.write_tls(&mut bytes).unwrap();
                server.read_tls(&mut bytes.as_slice()).unwrap();
                server.process_new_packets()?;
                bytes.clear();
                server.write_tls(&mut bytes).unwrap();
                client.read_tls(&mut bytes.as_slice()).unwrap();
                client.process_new_packets()?;
            }
            let ours = server.peer_certificates().map_or(0, <[_]>::len);
            Ok((ours, server.server_name().map(str::to_owned)))
        }
    }

    fn tls(check: Check, roots: Option<String>) -> Tls {
        Tls {
            check,
            roots,
            client: None,
            sni: true,
        }
    }

    #[test]
    fn a_server_proves_what_the_mode_asks_for() {
        let place = Place::new();
        let root = |name: &str| Some(place.file(name));
        for (name, check, roots, is_met) in [
            ("db.example", Check::Name, root("root.pem"), true),
            ("db2.example", Check::Name, root("root.pem"), false),
            ("db.example", Check::Name, root("other.pem"), false),
            ("db2.example", Check::Issuer, root("root.pem"), true),
            ("db2.example", Check::Issuer, root("other.pem"), false),
            ("db2.example", Check::Nothing, None, true),
        ] {
            let met = place.meets(name, &tls(check, roots.clone()));
            assert_eq!(met.is_ok(), is_met, "{name} {check:?} {roots:?}: {met:?}");
        }
    }

    #[test]
    fn our_certificate_is_shown_and_a_name_kept_back() {
        let place = Place::new();
        let mut tls = tls(Check::Name, Some(place.file("root.pem")));
        let named = Some("db.example".to_owned());
        assert_eq!(place.meets("db.example", &tls).unwrap(), (0, named.clone()));

        tls.client = Some((place.file("client.pem"), place.file("client.key")));
        assert_eq!(place.meets("db.example", &tls).unwrap(), (1, named));

        tls.sni = false;
        assert_eq!(place.meets("db.example", &tls).unwrap(), (1, None));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let place = Place::new();
        let root = |name: &str| tls(Check::Issuer, Some(place.file(name)));
        let client = |certificate: &str, key: &str| Tls {
            client: Some((place.file(certificate), place.file(key))),
            ..tls(Check::Nothing, None)
        };
        for (tls, key, file) in [
            (root("none.pem"), "sslrootcert", "none.pem"),
            (root("empty.pem"), "sslrootcert", "empty.pem"),
            (client("none.pem", "client.key"), "sslcert", "none.pem"),
            (client("client.pem", "none.key"), "sslkey", "none.key"),
            (client("client.pem", "root.pem"), "sslkey", "root.pem"),
            (client("root.pem", "client.key"), "sslkey", "client.key"),
        ] {
            let error = client_config(&tls).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")) && error.contains(file), "{error}");
        }
    }
}
