//! Certificates, made when they are needed.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientCertVerifierBuilder, WebPkiClientVerifier};
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
        let (chain, key) = self.issue(names, validity);
        config(chain, &key)
    }

    /// A server's end of TLS that takes no client without a certificate of this authority.
    pub fn strict_server(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ServerConfig> {
        self.asking_server(versions, |clients| clients)
    }

    /// A server's end of TLS that asks for a client certificate, and takes a client without one.
    pub fn lenient_server(&self) -> Arc<ServerConfig> {
        self.asking_server(rustls::ALL_VERSIONS, ClientCertVerifierBuilder::allow_unauthenticated)
    }

    fn asking_server(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        how: impl FnOnce(ClientCertVerifierBuilder) -> ClientCertVerifierBuilder,
    ) -> Arc<ServerConfig> {
        let (chain, key) = self.issue(&["127.0.0.1"], Validity::Now);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = how(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)).build().unwrap();
        Arc::new(builder(versions).with_client_cert_verifier(clients).with_single_cert(chain, key).unwrap())
    }

    /// A client's certificate and its key, in PEM form.
    pub fn client(&self, validity: Validity) -> (String, String) {
        let (certificate, key) = self.sign(&["client.example"], validity);
        (certificate.pem(), key.serialize_pem())
    }

    fn issue(&self, names: &[&str], validity: Validity) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let (certificate, key) = self.sign(names, validity);
        (vec![certificate.der().clone()], key)
    }

    fn sign(&self, names: &[&str], validity: Validity) -> (Certificate, KeyPair) {
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
        (params.signed_by(&key, &self.0).unwrap(), key)
    }
}

/// A server whose certificate is signed by itself.
pub fn self_signed_server(name: &str) -> Arc<ServerConfig> {
    self_signed(name, IsCa::NoCa).0
}

/// A server whose certificate is signed by itself, with that certificate in PEM form.
pub fn self_signed(name: &str, is_ca: IsCa) -> (Arc<ServerConfig>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = is_ca;
    let certificate = params.self_signed(&key).unwrap();
    (config(vec![certificate.der().clone()], &key), certificate.pem())
}

fn config(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Arc::new(builder(rustls::ALL_VERSIONS).with_no_client_auth().with_single_cert(chain, key).unwrap())
}

fn builder(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap()
}
