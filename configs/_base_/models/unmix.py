"""Un-Mix: how the images of a batch are mixed, a term for any base."""

mixup_prob = 0.5  # chance that whole images are blended; otherwise a box is exchanged
alpha = 1.0  # shares of the images are drawn from Beta(alpha, alpha)
mixture_weight = 1.0

unmix = dict(type="UnMix", mixup_prob=mixup_prob, alpha=alpha, weight=mixture_weight)
