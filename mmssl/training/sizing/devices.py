"""Accelerators by name: what their vendors publish."""

import re
from dataclasses import dataclass
from difflib import get_close_matches

MACHINE = 8
"""Devices of a machine, at most, as in the vendors' reference machines."""


Number = int | float


@dataclass(frozen=True)
class Device:
    """An accelerator.

    memory: GB, of 10^9 bytes. bf16, fp32: peak TFLOP/s of dense products in bf16 with float32 sums, and in float32 without TF32;
    None: not known. link: GB/s that it sends to others of its machine, in one direction: half of what is published for both.
    network: GB/s that it sends to other machines in the vendor's reference machine; None: there is none.
    source: what these figures were published in.
    """

    name: str
    memory: Number
    bf16: Number | None = None
    fp32: Number | None = None
    link: Number | None = None
    network: Number | None = None
    source: str = ""

    def peak(self, half: bool) -> float | None:
        """FLOP/s of products in bf16 or float32."""
        teraflops = self.bf16 if half else self.fp32
        return None if teraflops is None else teraflops * 1e12

    def sending(self, own: float, outward: float, each: int) -> float | None:
        """Seconds, at least, in which a device sends so many bytes, and a machine of `each` devices so many to others.

        None: its figures are not known. Through a machine's network all of its devices send at once.
        """
        if self.link is None:
            return None
        abroad = outward / (each * self.network * 1e9) if self.network is not None else 0.0
        return max(own / (self.link * 1e9) if each > 1 else 0.0, abroad)


DEVICES = {
    device.name: device
    for device in (
        Device("A100-40GB", 40, 312, 19.5, 300, 25, "NVIDIA A100 data sheet, SXM; DGX A100: 8 x 200 Gb/s"),
        Device("A100-80GB", 80, 312, 19.5, 300, 25, "NVIDIA A100 data sheet, SXM; DGX A100: 8 x 200 Gb/s"),
        Device("A100-PCIe", 80, 312, 19.5, 32, None, "NVIDIA A100 data sheet, PCIe; without NVLink bridge"),
        Device("H100", 80, 989, 67, 450, 50, "NVIDIA H100 data sheet, SXM; DGX H100: 8 x 400 Gb/s"),
        Device("H100-PCIe", 80, 756, 51, 64, None, "NVIDIA H100 data sheet, PCIe; without NVLink bridge"),
        Device("H200", 141, 989, 67, 450, 50, "NVIDIA H200 data sheet, SXM; DGX H200: 8 x 400 Gb/s"),
        Device("B200", 180, 2250, 75, 900, 50, "NVIDIA HGX B200 data sheet; DGX B200: 8 x 400 Gb/s"),
        Device("A10", 24, 125, 31.2, 32, None, "NVIDIA A10 data sheet; PCIe 4.0"),
        Device("A40", 48, 149.7, 37.4, 32, None, "NVIDIA A40 data sheet; PCIe 4.0"),
        Device("L4", 24, 121, 30.3, 32, None, "NVIDIA L4 data sheet, half of what is with sparsity; PCIe 4.0"),
        Device("L40S", 48, 362, 91.6, 32, None, "NVIDIA L40S data sheet; PCIe 4.0"),
        Device("RTX-A6000", 48, 154.8, 38.7, 32, None, "NVIDIA RTX A6000 data sheet, half of what is with sparsity; PCIe 4.0"),
        Device("RTX3090", 24, 71, 35.6, 32, None, "NVIDIA Ampere GA102 white paper; PCIe 4.0"),
        Device("RTX4090", 24, 165.2, 82.6, 32, None, "NVIDIA Ada white paper; PCIe 4.0"),
        Device("RTX5090", 32, 209.5, 104.8, 64, None, "NVIDIA RTX Blackwell white paper; PCIe 5.0"),
        Device("MI300X", 192, 1307.4, 163.4, 448, 50, "AMD Instinct MI300X data sheet; 8 x 400 Gb/s"),
    )
}
"""By name. What is published for both directions of a link is halved; figures with sparsity are not taken."""

ALIASES = {"A100": "A100-80GB", "H100-SXM": "H100", "H100-80GB": "H100", "H200-SXM": "H200", "4090": "RTX4090", "3090": "RTX3090"}
"""Other names of the same."""

ASKED = re.compile(r"(?P<count>\d+)\s*[x*]\s*(?P<name>.+)", re.IGNORECASE)
MEMORY = re.compile(r"(?P<size>\d+(\.\d+)?)\s*(GB|G)", re.IGNORECASE)
EXAMPLES = "64xH100, 8xA100-80GB, or 4x24GB for devices of which only the memory is known"


@dataclass(frozen=True)
class Fleet:
    """So many devices of a kind, all of which share a run."""

    count: int
    device: Device

    @property
    def each(self) -> int:
        """Devices of a machine: as many as share them out evenly."""
        return max(size for size in range(1, MACHINE + 1) if self.count % size == 0)

    @property
    def machines(self) -> int:
        """How many machines they are in."""
        return self.count // self.each

    def __str__(self) -> str:
        return f"{self.count} x {self.device.name}"


def fleet(text: str) -> Fleet:
    """What `64xH100` means. ValueError for a device that is not known, with those that are called alike, or for none."""
    found = ASKED.fullmatch(text.strip())
    count, name = (int(found["count"]), found["name"]) if found else (1, text.strip())
    if count < 1:
        raise ValueError(f"--devices {text}: give one device or more, as in {EXAMPLES}")
    if memory := MEMORY.fullmatch(name):
        if float(memory["size"]) <= 0:
            raise ValueError(f"--devices {text}: the memory of a device must be more than 0, as in {EXAMPLES}")
        return Fleet(count, Device(f"{float(memory['size']):g}GB", float(memory["size"])))
    known = {plain(each): device for each, device in DEVICES.items()}
    known |= {plain(each): DEVICES[own] for each, own in ALIASES.items()}
    if plain(name) in known:
        return Fleet(count, known[plain(name)])
    near = [known[each].name for each in get_close_matches(plain(name), known, n=3, cutoff=0.5)]
    raise ValueError(
        f"--devices {text}: no device is called {name!r}{'; near it: ' + ', '.join(dict.fromkeys(near)) if near else ''}. Known: "
        f"{', '.join(DEVICES)}. Or give the memory, as in {EXAMPLES}"
    )


def plain(name: str) -> str:
    """A name without what people write in different ways."""
    return re.sub(r"[\s_-]", "", name).lower().removeprefix("nvidia").removeprefix("geforce")
