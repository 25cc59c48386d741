//! An axum server whose RSA signatures come from an accelerator when that pays.
//!
//! ```text
//! cargo run --release --example axum -- vfio-user:./card.sock certificate.pem key.pem
//! curl --cacert certificate.pem https://localhost:8443/
//! ```
//!
//! The lines marked `hwshim` are all that such a server changes.

use axum::Router;
use axum::routing::get;
use hwshim::acceptor::OffloadAcceptor; // hwshim
use hwshim::address::Address; // hwshim
use hwshim::provider::Provider; // hwshim
use hwshim::router::core::Options; // hwshim
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::error::Error;
use std::sync::Arc;
use tokio::net::TcpListener;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [card, certificate, key] = &arguments[..] else {
        return Err("usage: axum ACCELERATOR CERTIFICATE.pem KEY.pem".into());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:8443").await?;
        serve(card.parse()?, certificate, key, listener).await
    })
}

pub(crate) async fn serve(
    card: Address,
    certificate: &str,
    key: &str,
    listener: TcpListener,
) -> Result<(), Failure> {
    let card = card.open_accelerator()?; // hwshim
    let router = hwshim::router::Router::start(vec![card.accelerator], Options::default())?; // hwshim
    let provider = Provider::new(router); // hwshim

    let certificates = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let config = ServerConfig::builder_with_provider(provider.rustls()) // hwshim
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_file(key)?)?;
    let acceptor = OffloadAcceptor::from(Arc::new(config)); // hwshim, for TlsAcceptor

    let app = Router::new().route("/", get(async || "signed, sealed, delivered\n"));
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, app) = (acceptor.clone(), app.clone());
        tokio::spawn(async move {
            // A client that cannot shake hands, or hangs up, concerns nobody else.
            if let Ok(stream) = acceptor.accept(stream).await {
                let service = TowerToHyperService::new(app);
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ = connection.await;
            }
        });
    }
}
