"""Published figures, as printed in their sources; ours are shown beside them."""

SHOTS = (1, 2, 4, 8, 16)

# Khan & Krawczyk, "Towards Adversarial Robustness and Uncertainty Quantification in DINOv2-based
# Few-Shot Anomaly Detection". Table 1: per cent, clean / FGSM 8/255 through the linear probe.
TABLE_1: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "mvtec": {
        "auroc": {
            "clean": (96.52, 96.73, 97.55, 98.03, 98.29),
            "adversarial": (61.13, 60.58, 59.68, 61.79, 61.06),
        },
        "ap": {
            "clean": (98.14, 98.11, 98.45, 99.01, 99.28),
            "adversarial": (79.73, 79.72, 79.03, 80.40, 80.17),
        },
        "f1_max": {
            "clean": (95.96, 96.46, 97.04, 97.40, 97.73),
            "adversarial": (84.84, 84.93, 84.48, 84.74, 85.00),
        },
        "gmean_max": {
            "clean": (93.85, 94.70, 95.80, 96.41, 96.86),
            "adversarial": (61.67, 60.95, 60.61, 62.21, 61.09),
        },
    },
    "visa": {
        "auroc": {
            "clean": (85.65, 88.31, 91.22, 92.54, 93.76),
            "adversarial": (52.82, 52.66, 52.16, 52.87, 52.43),
        },
        "ap": {
            "clean": (86.60, 89.23, 91.78, 92.93, 94.26),
            "adversarial": (59.24, 59.29, 58.29, 58.51, 58.57),
        },
        "f1_max": {
            "clean": (83.14, 84.85, 87.49, 88.61, 89.88),
            "adversarial": (72.51, 72.80, 72.75, 72.54, 72.71),
        },
        "gmean_max": {
            "clean": (80.34, 82.94, 85.74, 87.07, 88.78),
            "adversarial": (53.90, 53.88, 53.99, 54.60, 54.38),
        },
    },
}

# Table 2: measures times ten, before and after Platt scaling.
TABLE_2: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "mvtec": {
        "ece_positive": {
            "before": (4.261, 4.395, 4.597, 4.702, 4.832),
            "after": (0.536, 0.545, 0.489, 0.437, 0.376),
        },
        "nll": {
            "before": (7.273, 7.608, 7.960, 8.221, 8.601),
            "after": (2.435, 2.513, 2.554, 2.258, 1.809),
        },
        "brier": {
            "before": (2.676, 2.831, 2.989, 3.105, 3.271),
            "after": (0.594, 0.559, 0.500, 0.455, 0.393),
        },
    },
    "visa": {
        "ece_positive": {
            "before": (3.499, 3.658, 3.864, 4.033, 4.229),
            "after": (0.742, 0.736, 0.790, 0.754, 0.739),
        },
        "nll": {
            "before": (8.363, 8.782, 9.160, 9.482, 9.813),
            "after": (4.414, 4.261, 3.729, 3.543, 3.657),
        },
        "brier": {
            "before": (3.120, 3.276, 3.409, 3.514, 3.619),
            "after": (1.452, 1.323, 1.175, 1.090, 0.983),
        },
    },
}

# Table 3: mean predictive entropy in nats, of the raw score and of Platt's probability.
TABLE_3: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "mvtec": {
        "clean": {
            "before": (0.614, 0.599, 0.583, 0.569, 0.554),
            "after": (0.122, 0.109, 0.099, 0.081, 0.083),
        },
        "adversarial": {
            "before": (0.661, 0.665, 0.667, 0.669, 0.670),
            "after": (0.490, 0.479, 0.506, 0.480, 0.474),
        },
    },
    "visa": {
        "clean": {
            "before": (0.530, 0.499, 0.469, 0.445, 0.423),
            "after": (0.414, 0.369, 0.323, 0.305, 0.269),
        },
        "adversarial": {
            "before": (0.660, 0.659, 0.657, 0.656, 0.654),
            "after": (0.659, 0.642, 0.645, 0.651, 0.649),
        },
    },
}
