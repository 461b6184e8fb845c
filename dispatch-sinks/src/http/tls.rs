//! TLS by rustls, with roots and certificates from files.

use std::{path::Path, sync::Arc};

use dispatch_core::config::ConfigError;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{HttpVersion, TlsConfig};

/// The client side of TLS for `version`, with what `config` names. Paths start at `base_dir`.
pub(super) fn client(
    config: &TlsConfig,
    version: HttpVersion,
    base_dir: &Path,
) -> Result<Arc<ClientConfig>, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::at("tls", error.to_string()))?
        .with_root_certificates(roots(config, base_dir)?);

    let mut client = match (&config.cert_file, &config.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates("tls.cert_file", &base_dir.join(cert))?;
            let path = base_dir.join(key);
            let key = PrivateKeyDer::from_pem_file(&path).map_err(|error| unreadable("tls.key_file", &path, &error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| ConfigError::at("tls.key_file", format!("key and certificate do not fit: {error}")))?
        }
        (Some(_), None) => {
            return Err(ConfigError::at("tls.cert_file", "a certificate needs its key").help("add tls.key_file"));
        }
        (None, Some(_)) => {
            return Err(ConfigError::at("tls.key_file", "a key needs its certificate").help("add tls.cert_file"));
        }
    };
    client.alpn_protocols = match version {
        HttpVersion::One => vec![b"http/1.1".to_vec()],
        HttpVersion::Two => vec![b"h2".to_vec()],
        HttpVersion::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(Arc::new(client))
}

fn roots(config: &TlsConfig, base_dir: &Path) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    // What the system has in unknown forms is left out; a server that needs it fails with its name at the handshake.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = &config.ca_file {
        let path = base_dir.join(file);
        for certificate in certificates("tls.ca_file", &path)? {
            roots
                .add(certificate)
                .map_err(|error| unreadable("tls.ca_file", &path, &error))?;
        }
    }
    Ok(roots)
}

fn certificates(field: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(field, path, &error))?;
    if certificates.is_empty() {
        return Err(ConfigError::at(
            field,
            format!("{} holds no certificate", path.display()),
        ));
    }
    Ok(certificates)
}

fn unreadable(field: &str, path: &Path, error: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::at(field, format!("cannot use {}: {error}", path.display()))
}
