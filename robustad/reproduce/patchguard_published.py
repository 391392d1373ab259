"""PatchGuard's published figures, as printed in its supplement; ours are shown beside them.

Per cent AUROC, clean / under attack: PGD-1000 on the patches at 8/255 where nothing else is said.
"""

from typing import NamedTuple

DATASETS = ("mvtec", "visa", "btad", "brats2021")


class Pair(NamedTuple):
    """Clean and adversarial AUROC in per cent."""

    clean: float
    adversarial: float


class Printed(NamedTuple):
    """One row of a table for one data set: detection (image) and localisation (pixel)."""

    image: Pair
    pixel: Pair


def _row(image: str, pixel: str) -> dict[str, Printed]:
    """Read a row of the four data sets, `clean/adversarial` each."""
    images, pixels = ([_pair(cell.split("/")) for cell in row.split()] for row in (image, pixel))
    cells = zip(DATASETS, images, pixels, strict=True)
    return {name: Printed(image, pixel) for name, image, pixel in cells}


def _categories(text: str) -> dict[str, Printed]:
    """Read lines of category, image clean and adversarial, pixel clean and adversarial."""
    lines = [line.split() for line in text.strip().splitlines()]
    return {name: Printed(_pair(cells[:2]), _pair(cells[2:])) for name, *cells in lines}


def _pair(cells: list[str]) -> Pair:
    clean, adversarial = map(float, cells)
    return Pair(clean, adversarial)


def _mean(rows: list[Printed]) -> Printed:
    def mean(values: list[float]) -> float:
        # half up, as one does by hand; every figure has one decimal at most
        total = sum(round(10 * value) for value in values)
        return (2 * total + len(values)) // (2 * len(values)) / 10

    def pair(pairs: list[Pair]) -> Pair:
        return Pair(mean([p.clean for p in pairs]), mean([p.adversarial for p in pairs]))

    return Printed(pair([row.image for row in rows]), pair([row.pixel for row in rows]))


OURS = _row(
    "88.1/71.1 88.5/74.3 85.3/82.1 94.3/81.0",
    "92.7/73.8 96.9/85.2 93.2/73.0 97.7/94.5",
)

# Tables 13-18, with the categories' names as `robustad.data` has them.
CATEGORIES = {
    "mvtec": _categories("""
        bottle       97.6 84.7 96.7 84.6
        cable        87.3 74.0 97.2 77.8
        capsule      71.8 79.6 93.6 85.2
        carpet       83.9 43.2 95.8 53.7
        grid         95.7 74.9 93.1 55.5
        hazelnut     99.5 80.5 97.2 91.3
        leather      91.0 80.2 97.6 67.6
        metal_nut    88.8 54.4 87.9 75.3
        pill         81.5 59.1 86.7 76.3
        screw        55.4 56.6 93.8 86.5
        tile         95.3 71.7 86.2 64.0
        toothbrush  100   90.6 93.9 81.9
        transistor   94.1 84.3 95.4 84.8
        wood         93.1 56.0 89.6 57.4
        zipper       87.6 76.9 86.2 65.7
    """),
    "visa": _categories("""
        candle       83.6 82.5 94.9 70.7
        capsules     77.7 66.2 97.1 57.0
        cashew       88.7 83   97.3 89.9
        chewinggum   92.2 73.5 97.7 92.2
        fryum        85.1 74.5 95.9 88.0
        macaroni1    86.5 66.2 97.0 84.8
        macaroni2    68.3 42.3 95.3 85.0
        pcb1         95.4 85.3 99.0 95.4
        pcb2         97.3 91.2 96.8 87.1
        pcb3         94.8 73.5 98.7 93.0
        pcb4         98.5 92.1 95.9 83.7
        pipe_fryum   94.3 61.5 98.1 96.2
    """),
    "btad": _categories("""
        01           98.6 96.1 91.7 77.1
        02           65.3 65.6 92.1 64.2
        03           92.0 84.6 95.8 77.8
    """),
    "mpdd": _categories("""
        bracket_black  83.4 60.1 92.1 88.4
        bracket_brown  84.5 77.4 91.0 84.7
        bracket_white  79.8 52.9 92.1 85.9
        connector      94.3 92.5 93.8 76.8
        metal_plate   100   86.2 98.2 95.2
        tubes          70.4 42.8 95.9 88.9
    """),
    "wfdd": _categories("""
        grey_cloth   88.8 57.3 93.1 75.9
        grid_cloth   99.6 94.7 97.8 85.1
        pink_flower  52.3 33.0 94.4 63.0
        yellow_cloth 96.3 75.0 93.3 62.5
    """),
    "dtd_synthetic": _categories("""
        Blotchy_099     86.1 73.2 94.7 87.5
        Fibrous_183    100   55.8 99.0 80.9
        Marbled_078     89.3 63.8 97.6 88.4
        Matted_069      93.1 53.8 97.1 78.1
        Mesh_114        94.4 74.9 97.6 73.6
        Perforated_037  99.9 81.1 94.4 55.5
        Stratified_154  91.6 42.5 98.2 76.2
        Woven_001       83.6 56.0 96.2 71.6
        Woven_068       88.5 55.5 93.6 71.4
        Woven_104       79.6 55.4 87.9 73.0
        Woven_125       95.3 56.9 98.2 71.6
        Woven_127       96.8 57.9 97.2 70.5
    """),
}

# The supplement prints no means for these; they are those of its rows.
MEANS = {name: _mean([*CATEGORIES[name].values()]) for name in ("mpdd", "wfdd", "dtd_synthetic")}

# Per table and row. Rows named as in `patchguard_variants`; "ours" rows are printed alike in all.
PUBLISHED: dict[str, dict[str, dict[str, Printed]]] = {
    "main": {"PatchGuard": OURS | MEANS},
    "7": {
        "trained clean": _row(
            "94.7/12.9 93.9/16.3 91.3/11.6 97.1/10.7",
            "97.4/12.5 98.0/8.1 95.7/11.6 98.5/12.3",
        ),
    },
    "8": {
        "delta 1/(2N)": _row(
            "89.0/69.1 88.8/72.1 86.7/79.4 94.4/79.4",
            "93.1/70.9 96.8/82.0 94.0/70.8 97.8/90.1",
        ),
        "delta 1/N": OURS,
        "delta 2/N": _row(
            "85.1/71.9 84.7/75.8 82.4/82.8 91.7/81.3",
            "88.6/74.3 93.4/85.6 90.3/74.1 92.7/81.9",
        ),
    },
    "9": {
        "ViT small": OURS,
        "ViT base": _row(
            "89.1/71.0 87.9/73.1 84.5/81.7 93.0/82.3",
            "91.0/72.6 95.8/82.1 94.7/74.8 98.4/94.9",
        ),
        "ViT large": _row(
            "90.0/70.6 87.5/74.7 85.5/81.9 95.1/81.6",
            "92.9/73.4 95.8/86.0 94.1/73.5 96.7/93.2",
        ),
    },
    "10": {
        "U-Net": _row(
            "84.7/15.1 80.0/15.7 76.9/14.0 70.3/12.9",
            "85.4/17.8 81.8/13.9 79.6/18.2 76.3/16.0",
        ),
        "ResNet-50": _row(
            "88.1/27.6 84.9/23.3 85.7/23.9 86.0/23.5",
            "87.1/28.3 83.7/24.6 86.0/24.7 85.1/23.9",
        ),
    },
    "11": {
        "BigBird": _row(
            "86.7/51.7 90.3/49.7 86.0/58.9 95.9/61.8",
            "91.4/53.1 93.9/59.8 92.5/51.4 96.4/68.5",
        ),
        "BigBird, regularised": _row(
            "85.6/63.0 88.5/61.4 86.2/69.8 92.2/73.1",
            "90.0/64.7 92.1/73.6 90.5/62.2 94.6/78.9",
        ),
        "full attention": OURS,
    },
    "12": {
        "block N-2": _row(
            "87.3/68.2 89.7/72.9 86.3/79.1 93.5/75.4",
            "91.5/70.6 96.0/83.1 91.7/68.5 96.8/90.6",
        ),
        "block N-1": _row(
            "89.0/69.4 87.5/73.1 84.3/82.3 92.6/79.9",
            "93.2/70.6 95.7/86.1 93.1/71.7 97.0/93.2",
        ),
        "block N": OURS,
    },
    "19": {
        "without discriminator": _row(
            "85.9/69.5 87.7/73.0 83.8/80.6 93.4/80.6",
            "91.1/71.5 95.4/83.9 91.7/72.2 96.4/93.5",
        ),
        "with discriminator": OURS,
    },
    "20": {
        "eps 2/255": _row(
            "90.1/80.3 89.6/77.8 88.3/85.6 95.7/86.3",
            "94.0/81.6 97.1/88.7 93.7/79.1 98.2/95.3",
        ),
        "eps 4/255": _row(
            "88.9/74.2 88.8/75.4 86.0/83.5 94.8/83.4",
            "93.2/76.4 97.1/77.5 93.1/75.4 97.9/94.6",
        ),
        "eps 8/255": OURS,
    },
    # Printed are one clean row, which is the main one, and one figure a radius.
    "21": {
        "l2 eps 16/255": _row(
            "88.1/84.3 88.5/82.7 85.3/81.7 94.3/89.2",
            "92.7/85.7 96.9/91.7 93.2/84.3 97.7/96.7",
        ),
        "l2 eps 32/255": _row(
            "88.1/82.1 88.5/81.0 85.3/79.5 94.3/87.4",
            "92.7/83.6 96.9/90.3 93.2/82.9 97.7/96.1",
        ),
        "l2 eps 64/255": _row(
            "88.1/78.2 88.5/79.8 85.3/78.5 94.3/86.4",
            "92.7/81.0 96.9/88.7 93.2/79.6 97.7/95.7",
        ),
        "l2 eps 128/255": _row(
            "88.1/77.2 88.5/78.6 85.3/76.7 94.3/84.7",
            "92.7/78.3 96.9/86.7 93.2/77.9 97.7/95.0",
        ),
    },
}
