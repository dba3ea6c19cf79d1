"""From a file of weights to tensors that are checked and matched: one path.

``files`` reads what any library wrote, ``match`` finds where a network stands in it,
compares it with a model (``report``) and refuses what does not fit, ``values`` what no
working network holds, ``record`` compares what the weights were trained as. So go
``start`` (load_from), ``strict`` (tests), ``mmssl_ext.transfer.handover``
(PretrainedBackbone) and ``export``; ``download`` gets a file from the net.
"""
