//! The address of an accelerator, as somebody might type it.

use hwshim::address::Address;

pub(crate) fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(address) = text.parse::<Address>() {
        let written = address.to_string();
        assert_eq!(written.parse(), Ok(address), "{text:?} became {written:?}");
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    [
        "pci:0000:3b:00.1",
        "pci:3b:00.0",
        "vfio-user:/run/card.sock",
        "software:ring",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
