//! Certificates, made when they are needed.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use uuid::Uuid;

/// A certificate authority that nobody knows yet.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// When a certificate is good.
#[derive(Clone, Copy, Debug)]
pub enum Validity {
    Now,
    Past,
    Future,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of two authorities of one name the second would be taken for the first, with a bad signature.
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", Uuid::new_v4()));
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate, for those who are to trust it.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's end of TLS, with a certificate for these names and addresses.
    pub fn server(&self, names: &[&str], validity: Validity) -> Arc<ServerConfig> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let (from, to) = match validity {
            Validity::Now => (2020, 2100),
            Validity::Past => (2001, 2002),
            Validity::Future => (2098, 2099),
        };
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        let chain = vec![params.signed_by(&key, &self.0).unwrap().der().clone()];
        config(chain, &key)
    }
}

/// A server whose certificate is signed by itself.
pub fn self_signed_server(name: &str) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    config(vec![certificate.der().clone()], &key)
}

fn config(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}
