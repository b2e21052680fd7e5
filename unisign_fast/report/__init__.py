"""The report of a run: one HTML file, readable without a network.

run_folder     the files of a run: settings, log, scores, predictions, weights
head           what was trained, by which code, on which data
score_table    the scores beside the paper's, also as CSV and LaTeX
charts         SVG coordinates of curves and histograms
ranking        how each prediction compares with its reference; the worst and the best
words          confusion matrix and worst words of isolated recognition
clip_view      reads what the page shows of a clip: skeleton, hand crops, video frames
fusion_probe   gates and sampling points of the model
clip_figures   SVG coordinates and player data of a clip
pictures       pictures and numbers as text inside the page
page           writes all of it into one file, with the templates (*.j2), style.css and script.js
corpus_page    the page of a release of launch/curate.py
"""
